//! Writes the OpenAPI document to standard output: `cargo run --package moorline-control --example openapi`.

fn main() {
    print!("{}", moorline_control::http::openapi::document());
}
