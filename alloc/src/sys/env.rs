//! Settings from the environment, which nobody changes while the first object of the process is handed out.

use super::die::die;
use core::ffi::CStr;

fn get(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: the name is a C string; see the module's header on the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: what is not null is a C string in the environment, which stays.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

/// Whether a variable has this value.
pub(crate) fn is(name: &CStr, value: &CStr) -> bool {
    get(name) == Some(value)
}

/// A variable's value as a number of bytes. Dies with a message if it is set to something else.
pub(crate) fn bytes(name: &CStr) -> Option<usize> {
    let value = get(name)?;
    let bytes = parse(value.to_bytes());
    if bytes.is_none() {
        die(format_args!(
            "{name:?} is {value:?}, which is no size: give a number of bytes, or a number and KiB, MiB, GiB or TiB"
        ));
    }
    bytes
}

/// `1048576`, `1024KiB`, `1MiB`.
fn parse(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let shift = match &text[digits..] {
        b"" | b"B" => 0,
        b"KiB" => 10,
        b"MiB" => 20,
        b"GiB" => 30,
        b"TiB" => 40,
        _ => return None,
    };
    if digits == 0 {
        return None;
    }
    let number = text[..digits].iter().try_fold(0_usize, |n, digit| {
        n.checked_mul(10)?.checked_add(usize::from(digit - b'0'))
    })?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(parse(b"1048576"), Some(1 << 20));
        assert_eq!(parse(b"64KiB"), Some(64 << 10));
        assert_eq!(parse(b"3GiB"), Some(3 << 30));
        for bad in [
            &b""[..],
            b"MiB",
            b"5MB",
            b"-1",
            b"1 GiB",
            b"99999999999999999999",
            b"99999999999TiB",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
