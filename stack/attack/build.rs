//! Compiles the C half, without the probes that a distribution's compiler may put into large frames.

fn main() {
    println!("cargo:rerun-if-changed=c/attack.c");
    cc::Build::new()
        .file("c/attack.c")
        .flag_if_supported("-fno-stack-clash-protection")
        .flag_if_supported("-fno-stack-protector")
        .flag_if_supported("-Wno-infinite-recursion") // it ends by a jump
        .opt_level(1)
        .compile("attack");
}
