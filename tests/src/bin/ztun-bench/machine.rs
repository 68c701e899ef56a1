//! The machine that numbers were measured on.

use std::{fs, thread};

/// Kernel, cores, processor and memory, in one line.
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let processor = read("/proc/cpuinfo");
    let processor = value_of(&processor, "model name").unwrap_or("unknown processor");
    let memory = read("/proc/meminfo");
    let memory = value_of(&memory, "MemTotal").unwrap_or("unknown memory");
    format!(
        "Linux {}, {cores} cores ({processor}), {memory}",
        kernel.trim()
    )
}

/// The value of the first line `key : value`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| (name.trim() == key).then(|| value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_names_the_model() {
        let text = "processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\n";
        assert_eq!(value_of(text, "model name"), Some("A: B"));
        assert_eq!(value_of(text, "model"), None);
    }
}
