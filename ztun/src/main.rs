fn main() -> std::process::ExitCode {
    ztun::cli::run()
}
