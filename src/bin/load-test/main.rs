//! Load test of the engine.
fn main() {}
