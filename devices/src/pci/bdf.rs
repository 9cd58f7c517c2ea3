//! PCI addresses. A host's and a guest's are different types: mixing them up assigns the wrong
//! device.

use std::fmt;
use std::str::FromStr;

/// Address of a function on the host: segment (domain), bus, device, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostSbdf {
    segment: u16,
    bus: u8,
    device: u8,
    function: u8,
}

/// Address of a function on the guest's bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestBdf {
    device: u8,
    function: u8,
}

/// Why a text is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BdfError {
    /// Not of the form `[SSSS:]BB:DD.F`.
    #[error("'{0}' is not of the form [SSSS:]BB:DD.F (hexadecimal, as lspci prints it)")]
    Form(String),
    /// Device above 0x1f.
    #[error("device number {device:#x} of '{text}' is above 0x1f")]
    Device {
        /// The text.
        text: String,
        /// The number in it.
        device: u16,
    },
    /// Function above 7.
    #[error("function number {function:#x} of '{text}' is above 7")]
    Function {
        /// The text.
        text: String,
        /// The number in it.
        function: u16,
    },
}

fn hex(text: &str, digits: usize) -> Option<u16> {
    let fits = !text.is_empty() && text.len() <= digits;
    let plain = text.bytes().all(|b| b.is_ascii_hexdigit());
    (fits && plain).then(|| u16::from_str_radix(text, 16).ok())?
}

impl HostSbdf {
    /// `None` when device or function is out of range.
    #[must_use]
    pub fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        (device < 32 && function < 8).then_some(Self {
            segment,
            bus,
            device,
            function,
        })
    }

    /// The segment.
    #[must_use]
    pub fn segment(self) -> u16 {
        self.segment
    }

    /// The bus number.
    #[must_use]
    pub fn bus(self) -> u8 {
        self.bus
    }

    /// The function number.
    #[must_use]
    pub fn function(self) -> u8 {
        self.function
    }

    /// Whether `other` is a function of the same device, or the same one.
    #[must_use]
    pub fn is_beside(self, other: Self) -> bool {
        let place = |one: Self| (one.segment, one.bus, one.device);
        place(self) == place(other)
    }
}

impl FromStr for HostSbdf {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        let form = || BdfError::Form(text.to_owned());
        let (rest, function) = text.rsplit_once('.').ok_or_else(form)?;
        let mut fields = rest.rsplit(':');
        let device = fields.next().and_then(|f| hex(f, 2)).ok_or_else(form)?;
        let bus = fields.next().and_then(|f| hex(f, 2)).ok_or_else(form)?;
        let segment = match fields.next() {
            Some(field) => hex(field, 4).ok_or_else(form)?,
            None => 0,
        };
        if fields.next().is_some() {
            return Err(form());
        }
        let function = hex(function, 1).ok_or_else(form)?;
        let device_fits = u8::try_from(device).ok().filter(|d| *d < 32);
        let function_fits = u8::try_from(function).ok().filter(|f| *f < 8);
        Ok(Self {
            segment,
            bus: u8::try_from(bus).map_err(|_| form())?,
            device: device_fits.ok_or_else(|| BdfError::Device {
                text: text.to_owned(),
                device,
            })?,
            function: function_fits.ok_or_else(|| BdfError::Function {
                text: text.to_owned(),
                function,
            })?,
        })
    }
}

impl fmt::Display for HostSbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            bus,
            device,
            function,
        } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl GuestBdf {
    /// `None` when device or function is out of range.
    #[must_use]
    pub fn new(device: u8, function: u8) -> Option<Self> {
        (device < 32 && function < 8).then_some(Self { device, function })
    }

    /// Device (slot) number, 0 to 31.
    #[must_use]
    pub fn device(self) -> u8 {
        self.device
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub fn function(self) -> u8 {
        self.function
    }

    /// Device and function as one byte, device in the upper five bits.
    #[must_use]
    pub fn devfn(self) -> u8 {
        self.device << 3 | self.function
    }
}

impl fmt::Display for GuestBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0000:00:{:02x}.{:x}", self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_form_name_the_same_function() {
        let short: HostSbdf = "01:00.0".parse().unwrap();
        let long: HostSbdf = "0000:01:00.0".parse().unwrap();
        assert_eq!(short, long);
        assert_eq!(short.to_string(), "0000:01:00.0");
    }

    #[test]
    fn text_that_is_no_address_is_refused() {
        for text in [
            "",
            "1",
            "01:00",
            "01.0",
            "0:01:00:00.0",
            "01:00.0.0",
            "01:00.+1",
            "g1:00.0",
            " 01:00.0",
        ] {
            assert!(
                matches!(text.parse::<HostSbdf>(), Err(BdfError::Form(_))),
                "{text}"
            );
        }
        assert!(matches!(
            "01:20.0".parse::<HostSbdf>(),
            Err(BdfError::Device { device: 0x20, .. })
        ));
        assert!(matches!(
            "01:00.8".parse::<HostSbdf>(),
            Err(BdfError::Function { function: 8, .. })
        ));
    }
}
