//! `on-error=stop|unplug|report` and `request-timeout=SECONDS` of `--device`.

use super::shown;
use super::suggest::nearest;
use devices::host::Problem;
use std::time::Duration;
use vmm::spec::{ErrorPolicy, RemovalSpec};

const POLICIES: [(&str, ErrorPolicy); 3] = [
    ("stop", ErrorPolicy::Stop),
    ("unplug", ErrorPolicy::Unplug),
    ("report", ErrorPolicy::Report),
];

/// What was given so far.
#[derive(Default)]
pub(super) struct RemovalKeys {
    on_error: Option<ErrorPolicy>,
    request_timeout: Option<Duration>,
}

impl RemovalKeys {
    /// Takes the value of `on-error`; whether there was one before.
    pub(super) fn on_error(&mut self, value: &str) -> Result<bool, Problem> {
        let found = POLICIES.iter().find(|(name, _)| *name == value);
        let Some((_, policy)) = found else {
            let names = POLICIES.map(|(name, _)| name);
            return Err(Problem::new(
                format!("on-error={} is not understood", shown(value)),
                format!("it is none of {}", names.join(", ")),
                nearest(value, &names).map_or_else(
                    || "write on-error=stop, unplug or report".to_owned(),
                    |known| format!("did you mean '{known}'?"),
                ),
            ));
        };
        Ok(self.on_error.replace(*policy).is_some())
    }

    /// Takes the value of `request-timeout`; whether there was one before.
    pub(super) fn request_timeout(&mut self, value: &str) -> Result<bool, Problem> {
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = value.parse::<u32>().ok().filter(|_| digits);
        let Some(seconds) = seconds else {
            return Err(Problem::new(
                format!("request-timeout={} is not understood", shown(value)),
                format!("it is no whole number of seconds up to {}", u32::MAX),
                "give a number, e.g. request-timeout=30, or 0 to take the device away at once",
            ));
        };
        let timeout = Duration::from_secs(seconds.into());
        Ok(self.request_timeout.replace(timeout).is_some())
    }

    /// What is to be done, with the defaults for what was not given.
    pub(super) fn spec(self) -> RemovalSpec {
        let default = RemovalSpec::default();
        RemovalSpec {
            on_error: self.on_error.unwrap_or(default.on_error),
            request_timeout: self.request_timeout.unwrap_or(default.request_timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::device::parse;
    use std::time::Duration;
    use vmm::spec::{ErrorPolicy, RemovalSpec};

    fn removal(rest: &str) -> RemovalSpec {
        parse(&format!("host=01:00.0{rest}"))
            .unwrap()
            .device
            .removal
    }

    fn refusal(rest: &str) -> devices::host::Problem {
        parse(&format!("host=01:00.0{rest}")).unwrap_err()
    }

    #[test]
    fn a_device_stops_its_guest_on_error_and_has_ten_seconds_unless_told_otherwise() {
        let default = removal("");
        assert_eq!(default.on_error, ErrorPolicy::Stop);
        assert_eq!(default.request_timeout, Duration::from_secs(10));
        let unplug = removal(",on-error=unplug,request-timeout=0");
        assert_eq!(unplug.on_error, ErrorPolicy::Unplug);
        assert_eq!(unplug.request_timeout, Duration::ZERO);
        assert_eq!(removal(",on-error=report").on_error, ErrorPolicy::Report);
    }

    #[test]
    fn policies_and_timeouts_that_are_none_are_refused() {
        assert_eq!(
            refusal(",on-error=unplugg").remedy,
            "did you mean 'unplug'?"
        );
        assert_eq!(
            refusal(",on-error=").why,
            "it is none of stop, unplug, report"
        );
        for value in ["", "-1", "+1", "1.5", "10s", "4294967296"] {
            let problem = refusal(&format!(",request-timeout={value}"));
            assert!(problem.why.contains("no whole number"), "{value}");
        }
        let twice = refusal(",on-error=stop,on-error=stop");
        assert_eq!(twice.why, "'on-error' is given twice");
    }
}
