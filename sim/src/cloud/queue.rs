//! The queue that interruption warnings come through: EventBridge to SQS.

use gpujob_provider_core::Notice;
use jiff::{SignedDuration, Timestamp};

/// Its address.
pub const QUEUE: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/gpujob-interruptions";
/// How long a message that was read is not given to others.
const HIDDEN_FOR: SignedDuration = SignedDuration::from_secs(30);
/// How long a message is kept: the retention that Karpenter's template sets.
const KEPT_FOR: SignedDuration = SignedDuration::from_secs(300);
/// The most that one read gives.
const BATCH: usize = 10;

#[derive(Clone, Debug)]
struct Message {
    number: u64,
    sent: Timestamp,
    hidden_until: Timestamp,
    reads: u32,
    notice: Notice,
}

/// Messages in the order of their coming.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    messages: Vec<Message>,
}

impl Queue {
    pub(super) fn send(&mut self, number: u64, now: Timestamp, notice: Notice) {
        self.messages.push(Message { number, sent: now, hidden_until: now, reads: 0, notice });
    }

    /// What is there now; each comes again in half a minute, unless it is acknowledged.
    pub(super) fn read(&mut self, now: Timestamp) -> Vec<Notice> {
        self.messages.retain(|m| now.duration_since(m.sent) < KEPT_FOR);
        let mut read = vec![];
        for message in self.messages.iter_mut().filter(|m| m.hidden_until <= now).take(BATCH) {
            message.hidden_until = now + HIDDEN_FOR;
            message.reads += 1;
            let receipt = Some(format!("{}/{}", message.number, message.reads));
            read.push(Notice { receipt, ..message.notice.clone() });
        }
        read
    }

    /// Forgets those that were read with these receipts. How many those were.
    pub(super) fn forget(&mut self, notices: &[Notice]) -> usize {
        let before = self.messages.len();
        let named = |m: &Message| {
            notices.iter().filter_map(|n| n.receipt.as_deref()?.split_once('/')).any(|(number, _)| number == m.number.to_string())
        };
        self.messages.retain(|m| !named(m));
        before - self.messages.len()
    }

    /// When something can be read next.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.messages.iter().map(|m| m.hidden_until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_provider_core::NoticeKind;

    fn notice(instance: &str) -> Notice {
        Notice { instance: instance.into(), kind: NoticeKind::Interruption, at: None, code: "terminate".into(), receipt: None }
    }

    #[test]
    fn what_is_not_acknowledged_comes_again_and_what_is_does_not() {
        let (mut queue, start) = (Queue::default(), Timestamp::UNIX_EPOCH);
        let after = |seconds: i64| start + SignedDuration::from_secs(seconds);
        queue.send(1, start, notice("i-1"));
        let first = queue.read(after(1));
        assert_eq!(first[0].instance, "i-1");
        assert!(queue.read(after(2)).is_empty(), "hidden");
        let second = queue.read(after(31));
        assert_ne!(first[0].receipt, second[0].receipt);
        assert_eq!(queue.forget(&first), 1, "an older receipt of the same message will do");
        assert_eq!(queue.forget(&first), 0);
        assert!(queue.read(after(90)).is_empty());
    }

    #[test]
    fn nothing_is_kept_for_ever_and_reads_are_small() {
        let (mut queue, start) = (Queue::default(), Timestamp::UNIX_EPOCH);
        (0..12).for_each(|n| queue.send(n, start, notice(&format!("i-{n}"))));
        assert_eq!((queue.read(start).len(), queue.read(start).len()), (10, 2));
        assert!(queue.read(start + SignedDuration::from_secs(300)).is_empty());
    }
}
