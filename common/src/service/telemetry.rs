//! Logs, to standard error: JSON for machines, or lines for people.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt, Targets};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::config::ConfigError;

/// The variable that goes over the configured filter.
pub const LOG_VARIABLE: &str = "SOTTO_LOG";

/// What all of Sotto's crates begin with.
const OWN_TARGETS: &str = "sotto";

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a person at a terminal.
    Human,
}

/// The section `log`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// Directives of tracing's `EnvFilter`, e.g. `info` or `info,sotto_broker=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: "info".into(),
        }
    }
}

/// Sets up logging for the whole process; `SOTTO_LOG` goes over the configured filter.
///
/// # Errors
/// [`ConfigError`] if the filter is malformed or logging was set up before.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let variable = std::env::var(LOG_VARIABLE).ok();
    let filter = variable.as_deref().unwrap_or(&config.filter);
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colors = !no_color && io::stderr().is_terminal();
    let layer = layer(config.format, filter, colors, io::stderr)?;
    Registry::default()
        .with(layer)
        .try_init()
        .map_err(|_| ConfigError::Setting("logging was set up twice".into()))
}

fn layer<S, W>(
    format: LogFormat,
    filter: &str,
    colors: bool,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, ConfigError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| ConfigError::Setting(format!("log.filter, or {LOG_VARIABLE}: {error}")))?;
    // HTTP/2 and storage libraries print frames, headers and statements below `info`, and with
    // them tags and selectors (protocol §7, §12). Nothing but Sotto's own crates may therefore
    // speak below it. This is a second filter, since a directive such as `h2::codec=trace` goes
    // over any that could be added to the first.
    let allowed = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target(OWN_TARGETS, LevelFilter::TRACE);
    let layer = fmt::layer().with_writer(writer).with_ansi(colors);
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Human => layer.boxed(),
    };
    Ok(layer.with_filter(wanted.and(allowed)).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, emit: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = layer(format, filter, false, move || writer.clone()).expect("valid");
        tracing::subscriber::with_default(Registry::default().with(layer), emit);
        let bytes = lines.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn libraries_cannot_print_bodies_even_when_asked_to() {
        let filter = "trace,h2::codec=trace,hyper=trace,tonic=trace,rustls=trace,sqlx::query=trace";
        for format in [LogFormat::Json, LogFormat::Human] {
            let text = logged(format, filter, || {
                tracing::trace!(target: "h2::codec::framed_read", "body");
                tracing::debug!(target: "hyper::proto", "body");
                tracing::trace!(target: "tonic::transport", "body");
                tracing::debug!(target: "rustls::conn", "body");
                tracing::debug!(target: "sqlx::query", "body");
                tracing::trace!(target: "log", "body");
                tracing::info!(target: "h2", "bound");
                tracing::trace!(target: "sotto_broker::rpc", "ours");
            });
            assert!(!text.contains("body"), "{text}");
            assert!(text.contains("ours") && text.contains("bound"), "{text}");
        }
    }

    #[test]
    fn the_filter_still_decides_how_much_our_own_crates_say() {
        let text = logged(LogFormat::Json, "info,sotto_node=debug", || {
            tracing::debug!(target: "sotto_broker", "quiet");
            tracing::debug!(target: "sotto_node", "loud");
        });
        assert!(!text.contains("quiet") && text.contains("loud"), "{text}");
    }

    #[test]
    fn json_lines_are_json() {
        let text = logged(LogFormat::Json, "info", || {
            tracing::info!(target: "sotto_node", hits = 3, "done");
        });
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&line["message"], &line["hits"]),
            (&"done".into(), &3.into())
        );
    }

    #[test]
    fn a_malformed_filter_is_refused_by_its_name() {
        let refused = layer::<Registry, _>(LogFormat::Json, "info,=,", false, io::stderr);
        let text = refused.err().expect("malformed").to_string();
        assert!(text.contains("SOTTO_LOG"), "{text}");
    }
}
