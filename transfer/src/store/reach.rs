//! Why a store cannot be reached: what may pass, and what somebody has written wrongly.

use std::io;

use super::Class;

/// The class of a failure below HTTP. `contacted`: the store has answered this process before, so that its name and its certificate
/// were right.
pub fn class(error: &io::Error, contacted: bool) -> Class {
    if contacted {
        return Class::Unreachable;
    }
    if error.kind() == io::ErrorKind::NotFound {
        return Class::NoSuchHost;
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        // A certificate of nobody we trust, of another name, or out of date; or the other side speaks no TLS.
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_)) => Class::Untrusted,
        Some(rustls::Error::General(_)) => Class::Untrusted,
        _ => Class::Unreachable,
    }
}

/// A failure to look a name up, told apart: a name that nobody knows is [`io::ErrorKind::NotFound`], a name server that does not answer
/// is left as it is.
///
/// The standard library gives the resolver's words only: those of `EAI_NONAME` and `EAI_NODATA` in glibc and musl.
pub fn lookup(error: io::Error) -> io::Error {
    const UNKNOWN: [&str; 4] =
        ["Name or service not known", "No address associated with hostname", "Name does not resolve", "Name has no usable address"];
    let words = error.to_string();
    if UNKNOWN.iter().any(|unknown| words.contains(unknown)) {
        return io::Error::new(io::ErrorKind::NotFound, "no name server knows this host");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::CertificateError;

    #[test]
    fn what_somebody_wrote_wrongly_is_told_from_what_may_pass() {
        let name = |words: &str| lookup(io::Error::other(format!("failed to lookup address information: {words}")));
        let tls = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        for (error, want) in [
            (name("Name or service not known"), Class::NoSuchHost),
            (name("Temporary failure in name resolution"), Class::Unreachable),
            (io::Error::from(io::ErrorKind::ConnectionRefused), Class::Unreachable),
            (io::Error::from(io::ErrorKind::TimedOut), Class::Unreachable),
            (tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)), Class::Untrusted),
            (tls(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)), Class::Untrusted),
            (tls(rustls::Error::DecryptError), Class::Unreachable),
        ] {
            assert_eq!(class(&error, false), want, "{error}");
            assert_eq!(class(&error, true), Class::Unreachable, "{error}");
        }
    }
}
