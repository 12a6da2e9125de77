//! Interruptions and recommendations, polled and from the queue; and what an instance wrote before it was given up.

use crate::cloud::{Cloud, cloud};
use crate::pool;
use gpujob_provider_aws::Aws;
use gpujob_provider_conformance::Buyer;
use gpujob_provider_core::{ErrorClass, InstanceState, MachineProvider, Notice, NoticeKind, NoticeSource};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn queue(cloud: &Cloud) -> NoticeSource {
    NoticeSource::Queue(cloud.control("GET", "world", &json!({}))["queue_url"].as_str().unwrap().to_owned())
}

/// The queue as EventBridge sees it.
async fn sqs(cloud: &Cloud) -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(&cloud.config("lab", "lab-secret").await)
}

async fn until_running(aws: &Arc<Aws>, cloud: &Cloud, cluster: &str) -> String {
    let buyer = Buyer::of(aws.clone(), pool(), cluster).await;
    let launched = buyer.buy("gn", 1).await.unwrap();
    buyer.until(&launched.id, InstanceState::Running).await;
    assert_eq!(cloud.control("GET", &format!("instances/{}", launched.id), &json!({}))["market"], "spot");
    launched.id
}

#[tokio::test]
async fn an_interruption_is_polled_within_one_call() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let id = until_running(&aws, &cloud, "cluster-polled").await;
    assert_eq!(aws.notices(&NoticeSource::Poll).await.unwrap(), []);
    for code in ["marked-for-termination", "instance-terminated-no-capacity"] {
        cloud.control("POST", &format!("instances/{id}/interrupt"), &json!({"notice": 120, "code": code}));
        let mark = cloud.mark();
        let [notice] = aws.notices(&NoticeSource::Poll).await.unwrap().try_into().unwrap();
        assert_eq!(cloud.calls("DescribeSpotInstanceRequests", mark), 1);
        let left = notice.at.unwrap().duration_since(jiff::Timestamp::now()).as_secs();
        assert!((110..=121).contains(&left), "{left} s of two minutes");
        let expected = Notice { instance: id.clone(), kind: NoticeKind::Interruption, at: notice.at, code: code.to_owned(), receipt: None };
        assert_eq!(notice, expected);
    }
    aws.terminate(&id).await.unwrap();
    let shown = aws.notices(&NoticeSource::Poll).await.unwrap();
    assert_eq!(shown, [], "ended by us, it is no interruption");
    aws.acknowledge(&NoticeSource::Poll, &shown).await.unwrap();
}

#[tokio::test]
async fn the_queue_tells_what_will_happen_and_forgets_what_was_acknowledged() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let id = until_running(&aws, &cloud, "cluster-queue").await;
    let source = queue(&cloud);
    cloud.control("POST", &format!("instances/{id}/rebalance"), &json!({}));
    cloud.control("POST", &format!("instances/{id}/interrupt"), &json!({"notice": 120}));
    let found = received(&aws, &source, 2).await;
    let said: Vec<_> = found.iter().map(|n| (n.instance.as_str(), n.kind, n.code.as_str())).collect();
    assert!(said.contains(&(id.as_str(), NoticeKind::Rebalance, "rebalance-recommendation")), "{said:?}");
    assert!(said.contains(&(id.as_str(), NoticeKind::Interruption, "terminate")), "{said:?}");
    let warned = found.iter().find(|n| n.kind == NoticeKind::Interruption).unwrap();
    assert!(warned.at.unwrap() > jiff::Timestamp::now() && warned.receipt.is_some());
    aws.acknowledge(&source, &found).await.unwrap();
    // Repeated, and by one who comes too late: gone is gone.
    aws.acknowledge(&source, &found).await.unwrap();
    assert_eq!(left_in(&cloud, &source).await, 0);
    aws.terminate(&id).await.unwrap();
    let found = received(&aws, &source, 1).await;
    assert_eq!((found[0].instance.as_str(), found[0].code.as_str()), (id.as_str(), "shutting-down"));
    assert!(left_in(&cloud, &source).await > 0, "not acknowledged: it will come again");
}

/// Reads until so many have come.
async fn received(aws: &Arc<Aws>, source: &NoticeSource, count: usize) -> Vec<Notice> {
    let (mut found, start) = (vec![], Instant::now());
    while found.len() < count {
        assert!(start.elapsed() < Duration::from_secs(15), "only {found:?}");
        found.extend(aws.notices(source).await.unwrap());
    }
    found
}

/// Messages that the queue holds, shown or hidden.
async fn left_in(cloud: &Cloud, source: &NoticeSource) -> i64 {
    let NoticeSource::Queue(url) = source else { unreachable!() };
    let answer = sqs(cloud).await.get_queue_attributes().queue_url(url).attribute_names("All".into()).send().await.unwrap();
    let count = |name: &str| answer.attributes().unwrap()[&name.into()].parse::<i64>().unwrap();
    count("ApproximateNumberOfMessages") + count("ApproximateNumberOfMessagesNotVisible")
}

#[tokio::test]
async fn what_is_no_notice_is_deleted() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let source = queue(&cloud);
    let NoticeSource::Queue(url) = &source else { unreachable!() };
    let event = |kind: &str, detail: Value| {
        json!({"version": "0", "detail-type": kind, "source": "aws.ec2", "time": "2026-11-22T01:00:00Z", "detail": detail}).to_string()
    };
    let sqs = sqs(&cloud).await;
    for body in [
        "hello".to_owned(),
        event("EC2 Instance State-change Notification", json!({"instance-id": "i-1", "state": "running"})),
        event("AWS Health Event", json!({})),
        event("EC2 Instance Rebalance Recommendation", json!({"instance-id": "i-2"})),
    ] {
        sqs.send_message().queue_url(url).message_body(body).send().await.unwrap();
    }
    let found = received(&aws, &source, 1).await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].instance.as_str(), found[0].kind), ("i-2", NoticeKind::Rebalance));
    assert_eq!(left_in(&cloud, &source).await, 1, "the notice, until it is acknowledged");
    aws.acknowledge(&source, &found).await.unwrap();
    assert_eq!(left_in(&cloud, &source).await, 0);
}

/// The waiting is SQS's, so a read that finds nothing is one call of 20 s, not a storm of them.
#[tokio::test]
async fn an_empty_queue_is_waited_at() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let source = queue(&cloud);
    let (mark, start) = (cloud.mark(), Instant::now());
    assert_eq!(aws.notices(&source).await.unwrap(), []);
    assert!((19..25).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(cloud.calls("ReceiveMessage", mark), 1);
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_a_wrong_setting() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let NoticeSource::Queue(url) = queue(&cloud) else { unreachable!() };
    let nowhere = NoticeSource::Queue(url.replace("gpujob-interruptions", "gpujob-nowhere"));
    let error = aws.notices(&nowhere).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid, "{error}");
    assert!(error.message.contains("no such queue"), "{error}");
}

#[tokio::test]
async fn a_console_is_read_from_its_end() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let id = until_running(&aws, &cloud, "cluster-console").await;
    assert_eq!(aws.console(&id).await.unwrap(), None);
    let text = format!("{}\n\u{1b}[31mkubelet: no route to host, grüße\u{1b}[0m\r\n", "boot ".repeat(1000));
    cloud.control("POST", &format!("instances/{id}/console"), &json!({"text": text}));
    let end = aws.console(&id).await.unwrap().unwrap();
    assert!(end.ends_with("boot \nkubelet: no route to host, grüße") && end.len() <= 2048, "{end}");
    assert_eq!(aws.console("i-0123456789abcdef0").await.unwrap(), None, "nobody knows of it");
    aws.terminate(&id).await.unwrap();
}
