//! What a process has cost so far, by `/proc`.

/// Kilobytes of memory that a process had at most; `self`, or a process id.
pub(crate) fn peak_kb(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    let number = line.trim().trim_end_matches(" kB");
    number.parse().expect("kilobytes")
}

/// Seconds that the processors have worked for a process, all its threads together.
pub(crate) fn processor_seconds(process: &str) -> f64 {
    /// Linux counts in hundredths wherever Sotto runs.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    // The name, in brackets, may hold blanks; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = times.map(|time| time.parse::<u32>().expect("ticks")).sum();
    f64::from(ticks) / TICKS
}
