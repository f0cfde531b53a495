//! The monitor of one container; see the library.

fn main() {
    conmon_rs::main();
}
