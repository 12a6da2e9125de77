//! Notices that come: an SQS queue that an EventBridge rule writes to. A message is hidden from others while somebody works on
//! it, and comes again unless it is deleted: so it is deleted only once what it says is recorded.

use crate::client::{Clients, call};
use crate::event::{self, Message};
use aws_config::Region;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use gpujob_provider_core::{ErrorClass, Notice, ProviderError};
use std::time::Duration;

/// The longest that SQS lets a read wait.
const WAIT: i32 = 20;
/// A crash before the deletion costs this much of an instance's two minutes.
const HIDDEN_FOR: i32 = 30;
/// Messages of one call: SQS's limit.
const BATCH: usize = 10;

/// Waits for notices, at most [`WAIT`]. What is no notice is deleted here, since nobody else will ever ask for it.
pub(crate) async fn receive(clients: &Clients, queue: &str) -> Result<Vec<Notice>, ProviderError> {
    // The wait is SQS's, so the usual time limits would cut it off.
    let patient = TimeoutConfig::builder()
        .operation_attempt_timeout(Duration::from_secs(u64::from(WAIT.unsigned_abs()) + 10))
        .operation_timeout(Duration::from_secs(u64::from(WAIT.unsigned_abs()) + 20))
        .build();
    let sent = clients
        .sqs
        .receive_message()
        .queue_url(queue)
        .max_number_of_messages(10)
        .wait_time_seconds(WAIT)
        .visibility_timeout(HIDDEN_FOR)
        .customize()
        .config_override(place(clients, queue).timeout_config(patient))
        .send();
    let answer = call("ReceiveMessage", sent).await?;
    let (mut notices, mut others) = (vec![], vec![]);
    for message in answer.messages() {
        let Some(receipt) = message.receipt_handle() else { continue };
        match event::read(message.body().unwrap_or_default(), receipt) {
            Message::Notice(notice) => notices.push(notice),
            Message::Other => others.push(receipt.to_owned()),
            Message::Malformed(reason) => {
                tracing::warn!(queue, message = message.message_id(), reason, "a message in the queue is no event of EC2; it is deleted");
                others.push(receipt.to_owned());
            }
        }
    }
    // The notices matter more: what could not be deleted comes again.
    if let Err(error) = delete(clients, queue, &others).await {
        tracing::warn!(queue, %error, "messages that nobody needs stay in the queue");
    }
    Ok(notices)
}

/// Has the queue forget the messages of these receipts.
pub(crate) async fn delete(clients: &Clients, queue: &str, receipts: &[String]) -> Result<(), ProviderError> {
    for some in receipts.chunks(BATCH) {
        let mut batch = clients.sqs.delete_message_batch().queue_url(queue);
        for (number, receipt) in some.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(number.to_string()).receipt_handle(receipt).build();
            batch = batch.entries(entry.map_err(|error| ProviderError::new(ErrorClass::Invalid, format!("DeleteMessageBatch: {error}")))?);
        }
        let answer = call("DeleteMessageBatch", batch.customize().config_override(place(clients, queue)).send()).await?;
        for failed in answer.failed() {
            let words = format!("DeleteMessageBatch: {}: {}", failed.code(), failed.message().unwrap_or_default());
            // A receipt that SQS does not know (any more) is one whose message is deleted, or comes again under another.
            if !failed.sender_fault() {
                return Err(ProviderError::new(ErrorClass::Unknown, words));
            }
            tracing::debug!(queue, words, "not deleted");
        }
    }
    Ok(())
}

/// A queue may be in another region than the instances.
fn place(clients: &Clients, queue: &str) -> aws_sdk_sqs::config::Builder {
    let region = region(queue).unwrap_or(&clients.region);
    aws_sdk_sqs::config::Builder::new().region(Region::new(region.to_owned()))
}

/// The region in a queue's address, such as `https://sqs.eu-central-1.amazonaws.com/123456789012/name`.
fn region(queue: &str) -> Option<&str> {
    let host = queue.split_once("://")?.1.split('/').next()?;
    let mut labels = host.split('.');
    (labels.next()? == "sqs" && host.contains(".amazonaws.com")).then(|| labels.next()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_says_the_region() {
        for (queue, expected) in [
            ("https://sqs.eu-central-1.amazonaws.com/123456789012/gpujob", Some("eu-central-1")),
            ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/gpujob", Some("cn-north-1")),
            ("http://10.77.0.1:4566/123456789012/gpujob-interruptions", None),
            ("https://sqs.example.org/123456789012/gpujob", None),
            ("gpujob", None),
        ] {
            assert_eq!(region(queue), expected, "{queue}");
        }
    }
}
