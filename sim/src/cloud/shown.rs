//! What calls that only look are answered with.

use super::account::Account;
use super::machine::{ANNOUNCED, Machine, RECLAIMED};
use gpujob_crds::names;
use gpujob_provider_core::{Leftover, LeftoverKind, Notice, NoticeKind};
use jiff::SignedDuration;

/// How long a poll speaks of an interruption.
const NEWS: SignedDuration = SignedDuration::from_mins(10);
/// What a console keeps.
pub(super) const CONSOLE: usize = 2048;

/// As DescribeSpotInstanceRequests tells it, for ten minutes: all that are marked or were taken, whosever they are. It says
/// when they were marked and not how long they have: two minutes are EC2's word.
pub(super) fn polled(account: &Account) -> Vec<Notice> {
    let notice = |machine: &Machine| {
        let noticed = machine.noticed.filter(|at| account.now.duration_since(*at) <= NEWS)?;
        let code = match machine.why.as_deref() {
            None => "marked-for-termination",
            Some(RECLAIMED) => "instance-terminated-no-capacity",
            Some(_) => return None,
        };
        let at = Some(noticed + ANNOUNCED);
        Some(Notice { instance: machine.id.clone(), kind: NoticeKind::Interruption, at, code: code.to_owned(), receipt: None })
    };
    account.machines.values().filter_map(notice).collect()
}

pub(super) fn leftovers(account: &Account, cluster: &str) -> Vec<Leftover> {
    let ours = account.volumes.values().filter(|v| v.instance.is_none() && v.tags.get(names::CLUSTER_TAG).is_some_and(|c| c == cluster));
    let volumes = ours.map(|v| Leftover {
        kind: LeftoverKind::Volume,
        id: v.id.clone(),
        name: v.id.clone(),
        pool_uid: None,
        node_uid: v.tags.get(names::NODE_UID_TAG).cloned(),
        created: Some(v.created),
    });
    let templates = account.templates.values().filter(|t| t.cluster == cluster).map(|t| Leftover {
        kind: LeftoverKind::Template,
        id: t.id.clone(),
        name: t.name.clone(),
        pool_uid: Some(t.pool_uid.clone()),
        node_uid: None,
        created: Some(t.created),
    });
    volumes.chain(templates).collect()
}

/// The last of a text, from the beginning of a character.
pub(super) fn tail(text: &str) -> &str {
    let from = (text.len().saturating_sub(CONSOLE)..=text.len()).find(|at| text.is_char_boundary(*at));
    &text[from.unwrap_or(text.len())..]
}
