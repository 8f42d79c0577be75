//! The yardstick: a consumer written by hand on lapin that does what every job costs at least: take, one confirmed
//! event, acknowledge. No record, no decoding, nothing that survives a bad day.

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use serde::{Deserialize, Serialize};

use crate::{
    bed,
    role::{Told, tell},
};

/// What the loop is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plain {
    pub(crate) broker: String,
    pub(crate) queue: String,
    pub(crate) exchange: String,
    pub(crate) at_once: u16,
    /// Bytes of an event.
    pub(crate) event: usize,
}

pub(crate) async fn play(plain: Plain) -> Result<()> {
    Told::new().until_alone(work(&plain)).await
}

async fn work(plain: &Plain) -> Result<()> {
    // As many connections and channels as ours: one that takes, one that publishes.
    let (taking, publishing) = (bed::connect(&plain.broker).await?, bed::connect(&plain.broker).await?);
    let (lane, out) = (taking.create_channel().await?, publishing.create_channel().await?);
    lane.basic_qos(plain.at_once, BasicQosOptions::default()).await?;
    out.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut jobs = lane.basic_consume(plain.queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
    tell("ready")?;
    let event = vec![b'e'; plain.event];
    let mut under_way = FuturesUnordered::new();
    let mut number = 0_u64;
    loop {
        tokio::select! {
            job = jobs.next() => {
                let job = job.context("the consumer ended")??;
                number += 1;
                let properties = BasicProperties::default()
                    .with_delivery_mode(2)
                    .with_content_type("application/json".into())
                    .with_message_id(number.to_string().into());
                let key = "v1.bench.status-poll.completed.plain".into();
                let options = BasicPublishOptions::default();
                let sent = out.basic_publish(plain.exchange.as_str().into(), key, options, &event, properties).await?;
                under_way.push(async move {
                    ensure!(sent.await?.is_ack(), "an event was refused");
                    ensure!(job.ack(BasicAckOptions::default()).await?, "a job was no longer ours");
                    anyhow::Ok(())
                });
            }
            Some(done) = under_way.next() => done?,
        }
    }
}
