//! What a run was on.

use serde::Serialize;

/// This machine, as far as it matters to what is measured.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Machine {
    /// As the processor calls itself.
    pub(crate) processor: String,
    /// That this process may use.
    pub(crate) cores: usize,
    /// When the system gives huge pages: `always`, `madvise` or `never`.
    pub(crate) huge_pages: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let information = read("/proc/cpuinfo");
        let mut lines = information.lines();
        let model = lines.find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("a processor without a name", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
        let setting = read("/sys/kernel/mm/transparent_hugepage/enabled");
        let chosen = setting
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        Self {
            processor: model.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            huge_pages: chosen.map_or("not known", |(chosen, _)| chosen).to_owned(),
        }
    }
}

/// Empty where the system does not have it.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
