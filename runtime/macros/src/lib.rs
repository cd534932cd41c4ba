//! The attributes `#[baton::main]` and `#[baton::test]`.
//!
//! Both wrap the body of a function in `baton::run(move || body)`. The body is the last token tree of the item and all
//! else stays as it is, so this needs no parser.

use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes a function, usually `main`, run as the main goroutine.
///
/// ```ignore (the facade crate depends on this one; its own tests run this example)
/// #[baton::main]
/// fn main() {
///     baton::go!(|| println!("hello")).join().unwrap();
/// }
/// ```
#[proc_macro_attribute]
pub fn main(attribute: TokenStream, item: TokenStream) -> TokenStream {
    wrap(&attribute, item, TokenStream::new())
}

/// Makes a test run in a goroutine.
///
/// ```ignore (the facade crate depends on this one; its own tests run this example)
/// #[baton::test]
/// fn sums_up() {
///     assert_eq!(baton::go!(|| 1 + 1).join().unwrap(), 2);
/// }
/// ```
#[proc_macro_attribute]
pub fn test(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let marker = parse("#[::core::prelude::v1::test]");
    wrap(&attribute, item, marker)
}

/// `prefix`, then the item with its body wrapped.
fn wrap(attribute: &TokenStream, item: TokenStream, prefix: TokenStream) -> TokenStream {
    if !attribute.is_empty() {
        return error("takes no arguments; use baton::Runtime::builder() for settings");
    }
    let mut tokens: Vec<TokenTree> = item.into_iter().collect();
    if tokens
        .iter()
        .any(|t| matches!(t, TokenTree::Ident(i) if i.to_string() == "async"))
    {
        return error("goes on a plain function: a goroutine may block, so there is nothing to await");
    }
    match tokens.pop() {
        Some(TokenTree::Group(body)) if body.delimiter() == Delimiter::Brace => {
            let mut call = parse("::baton::run");
            let mut closure = parse("move ||");
            closure.extend([TokenTree::Group(body)]);
            call.extend([TokenTree::Group(Group::new(Delimiter::Parenthesis, closure))]);
            tokens.push(TokenTree::Group(Group::new(Delimiter::Brace, call)));
        }
        _ => return error("goes on a function with a body"),
    }
    prefix.into_iter().chain(tokens).collect()
}

fn parse(source: &str) -> TokenStream {
    source.parse().expect("the source is a constant that parses")
}

/// A compile error at the attribute.
fn error(message: &str) -> TokenStream {
    let text = TokenTree::Literal(Literal::string(&format!("this attribute {message}")));
    [
        TokenTree::Ident(Ident::new("compile_error", Span::call_site())),
        TokenTree::Punct(Punct::new('!', Spacing::Alone)),
        TokenTree::Group(Group::new(Delimiter::Parenthesis, text.into())),
        TokenTree::Punct(Punct::new(';', Spacing::Alone)),
    ]
    .into_iter()
    .collect()
}
