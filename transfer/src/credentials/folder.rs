//! A mounted Secret: a file for each variable. The kubelet replaces the whole folder when the Secret changes, so it is read
//! again twice a minute, and when a store refuses the keys.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::aws::Keys;
use super::{CredentialError, Loan, Source};

const FRESH: Duration = Duration::from_secs(30);

pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    fn read(&self, name: &str) -> Result<Option<String>, CredentialError> {
        let path = self.0.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_string()).filter(|text| !text.is_empty())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(CredentialError::Wrong(format!("{}: {e}", path.display()))),
        }
    }

    /// The files of one moment: the kubelet switches the link `..data` from one complete folder to the next.
    fn keys(&self) -> Result<Keys, CredentialError> {
        let need = |name: &str| {
            let missing = || CredentialError::Wrong(format!("{} has no file {name}", self.0.display()));
            self.read(name)?.ok_or_else(missing)
        };
        let (access_key, secret_key) = (need("AWS_ACCESS_KEY_ID")?, need("AWS_SECRET_ACCESS_KEY")?);
        Ok(Keys { access_key, secret_key, session_token: self.read("AWS_SESSION_TOKEN")? })
    }
}

impl Source<Keys> for Folder {
    fn borrow(&self) -> Result<Loan<Keys>, CredentialError> {
        let mut keys = self.keys()?;
        // A switch in the middle would pair an old key with a new secret: two equal readings are of one moment.
        for _ in 0..3 {
            let again = self.keys()?;
            if again == keys {
                break;
            }
            keys = again;
        }
        Ok(Loan { value: keys, renew: Some(SystemTime::now() + FRESH) })
    }
}
