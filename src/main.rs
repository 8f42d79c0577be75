//! The edge: arguments, runtime, exit codes.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One cryptography for everything that speaks TLS or signs; a second install would be refused, and is not made.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: another cryptography provider is installed already; this is a mistake of longshore");
        return longshore::cli::exit::Exit::Internal.into();
    }
    longshore::cli::main().into()
}
