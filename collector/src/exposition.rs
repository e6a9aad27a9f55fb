//! Metrics as text: Prometheus' format 0.0.4, and OpenMetrics 1.0. They differ in how a counter is announced (with or
//! without `_total`), in `# UNIT`, and in the line that ends the whole.

use std::fmt::Write as _;

use http::HeaderValue;

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Prometheus,
    OpenMetrics,
}

impl Form {
    /// What an `Accept` header prefers: OpenMetrics if it is named and nothing of Prometheus' is preferred to it.
    pub(crate) fn of(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next()?;
                let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
                (name == wanted).then_some(quality.unwrap_or(1.0))
            });
            ranges.fold(0.0, f32::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Counter,
    Gauge,
}

/// Families as they are written.
pub(crate) struct Page {
    form: Form,
    text: String,
}

impl Page {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, text: String::new() }
    }

    /// A family: its name without `_total`, what it is, and its samples with at most one label each.
    pub(crate) fn family<'a>(
        &mut self,
        name: &str,
        kind: Type,
        help: &str,
        samples: impl IntoIterator<Item = (Option<(&'a str, &'a str)>, u64)>,
    ) {
        let (suffix, kind) = match kind {
            Type::Counter => ("_total", "counter"),
            Type::Gauge => ("", "gauge"),
        };
        let announced = match self.form {
            Form::Prometheus => format!("{name}{suffix}"),
            Form::OpenMetrics => name.to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {announced} {}\n# TYPE {announced} {kind}", escaped(help, false));
        if self.form == Form::OpenMetrics && name.ends_with("_bytes") {
            let _ = writeln!(self.text, "# UNIT {announced} bytes");
        }
        for (label, value) in samples {
            let _ = match label {
                Some((key, text)) => {
                    writeln!(self.text, "{name}{suffix}{{{key}=\"{}\"}} {value}", escaped(text, true))
                }
                None => writeln!(self.text, "{name}{suffix} {value}"),
            };
        }
    }

    pub(crate) fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escaped(text: &str, is_quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if is_quoted { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(form: Form) -> String {
        let mut page = Page::new(form);
        page.family("a_requests", Type::Counter, "All of\nthem.", [(Some(("why", "a \"b\\\n")), 3)]);
        page.family("a_log_bytes", Type::Gauge, "Size.", [(None, 7)]);
        page.finish()
    }

    #[test]
    fn both_forms_are_as_their_specifications_say() {
        assert_eq!(
            page(Form::Prometheus),
            "# HELP a_requests_total All of\\nthem.\n# TYPE a_requests_total counter\n\
             a_requests_total{why=\"a \\\"b\\\\\\n\"} 3\n\
             # HELP a_log_bytes Size.\n# TYPE a_log_bytes gauge\na_log_bytes 7\n"
        );
        assert_eq!(
            page(Form::OpenMetrics),
            "# HELP a_requests All of\\nthem.\n# TYPE a_requests counter\n\
             a_requests_total{why=\"a \\\"b\\\\\\n\"} 3\n\
             # HELP a_log_bytes Size.\n# TYPE a_log_bytes gauge\n# UNIT a_log_bytes bytes\na_log_bytes 7\n# EOF\n"
        );
    }

    #[test]
    fn readers_get_what_they_prefer() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Form::of(prometheus), Form::OpenMetrics);
        assert_eq!(Form::of("application/openmetrics-text; q=0.2, text/plain"), Form::Prometheus);
        assert_eq!((Form::of(""), Form::of("*/*")), (Form::Prometheus, Form::Prometheus));
    }
}
