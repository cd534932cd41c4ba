//! A program written for crossbeam-channel compiles for Baton and means the same: one text, compiled for both.

mod on_baton {
    use baton::chan as crossbeam_channel;
    include!("crossbeam/program.rs");
}

mod on_crossbeam {
    include!("crossbeam/program.rs");
}
