//! What the subcommands do: each takes a [`Context`] and answers with a receipt or a [`Fault`].

use std::path::PathBuf;
use std::time::Instant;

use crate::epoch::Actor;
use crate::receipt::{Receipt, Role};
use crate::spec::{FOLDERS_ENV, Integrity, POD_DIR, POD_UID_ENV, SPEC_ENV, STATE_DIR, TransferSpec};
use crate::store::location::Location;
use crate::store::{self, ObjectStore};

pub mod check;
pub mod commit;
pub mod destination;
pub mod discard;
mod download;
mod fault;
pub mod fetch;
mod globs;
mod inputs;
mod keep;
mod ledger;
mod pack;
pub mod resolve;
mod resume;
mod roll;
pub mod stage;
mod staged;
mod stream;
pub mod supervise;
mod sweep;
mod unconditional;
mod upload;
mod walk;
pub mod wrap;

pub use destination::Destination;
pub use fault::Fault;

/// What a role is asked, and by whom.
#[derive(Clone)]
pub struct Context {
    /// The attempt, its inputs and results.
    pub spec: TransferSpec,
    /// Uid of the attempt's pod.
    pub pod_uid: String,
    /// This process's random name.
    pub nonce: String,
    /// When it began.
    pub started: Instant,
    /// What survives a restart of a container of this pod.
    pub state: PathBuf,
    /// Where the pod's annotations are, see [`POD_DIR`].
    pub pod_dir: PathBuf,
}

impl Context {
    /// From `GPUJOB_TRANSFER` and `GPUJOB_POD_UID`.
    ///
    /// # Errors
    /// `InvalidSpec`, permanent.
    pub fn from_env() -> Result<Context, Fault> {
        let get = |name: &str| std::env::var(name).map_err(|_| Fault::invalid(format!("{name} is not set")));
        let spec: TransferSpec =
            serde_json::from_str(&get(SPEC_ENV)?).map_err(|e| Fault::invalid(format!("{SPEC_ENV} cannot be read: {e}")))?;
        let pod_uid = get(POD_UID_ENV)?;
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !plain(&pod_uid) || !plain(&spec.job.uid) {
            return Err(Fault::invalid(format!("{POD_UID_ENV} and the job's uid must be plain identifiers")));
        }
        if spec.attempt == 0 {
            return Err(Fault::invalid("attempts are counted from 1".into()));
        }
        for input in &spec.inputs {
            absolute(&input.path)?;
        }
        if let Some(results) = &spec.results {
            absolute(&results.path)?;
        }
        if let Some(checkpoints) = &spec.checkpoints {
            absolute(&checkpoints.path)?;
        }
        let folder = |name: &str, usual: &str| std::env::var_os(name).map_or_else(|| usual.into(), PathBuf::from);
        let (state, pod_dir) = (folder(FOLDERS_ENV[0], STATE_DIR), folder(FOLDERS_ENV[1], POD_DIR));
        Ok(Context { spec, pod_uid, nonce: crate::checksum::nonce(), started: Instant::now(), state, pod_dir })
    }

    /// Who decides about epochs: this process, for the attempt.
    pub fn actor(&self) -> Actor {
        Actor {
            job: self.spec.job.clone(),
            index: self.spec.index,
            attempt: self.spec.attempt,
            pod_uid: self.pod_uid.clone(),
            nonce: self.nonce.clone(),
        }
    }

    /// Where results go; `None` for a job that keeps nothing. Connects to nothing.
    ///
    /// # Errors
    /// A bad URL or missing credentials, permanent.
    pub fn destination(&self) -> Result<Option<Destination>, Fault> {
        let Some(results) = &self.spec.results else { return Ok(None) };
        let place = Location::parse(&results.to).map_err(|e| Fault::invalid(e.to_string()))?.folder();
        let store = open(&place, self.spec.integrity)?;
        Ok(Some(Destination::new(store, place.key).of_attempt(self.spec.attempt)))
    }

    /// A receipt of this role with the time it took.
    pub fn finished(&self, mut receipt: Receipt) -> Receipt {
        receipt.seconds = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        receipt
    }
}

fn absolute(path: &str) -> Result<(), Fault> {
    if path.starts_with('/') && !path.split('/').any(|part| part == "..") {
        return Ok(());
    }
    Err(Fault::invalid(format!("{path:?} is not an absolute path")))
}

/// A bucket by the environment's credentials. What has to be asked of it is asked below `place`, if that is a folder.
pub(crate) fn open(place: &Location, integrity: Option<Integrity>) -> Result<Box<dyn ObjectStore>, Fault> {
    Ok(store::open(place, integrity, &|name| std::env::var(name).ok())?)
}

/// Runs one role, whatever happens in it, to a receipt.
pub fn receipt(role: Role, context: &Context, run: impl FnOnce(&Context) -> Result<Receipt, Fault>) -> Receipt {
    let answer = run(context).unwrap_or_else(|fault| fault.receipt(role));
    context.finished(answer)
}
