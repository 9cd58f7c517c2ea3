//! `cargo ci …`: the one entry for every chore of the Ferry project.

fn main() {}
