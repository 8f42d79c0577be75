"""The same job for Celery: one effect where asked for, one confirmed event, and an acknowledgement, early or late."""

import http.client
import json
import os

from celery import Celery
from kombu import Connection, Producer

BROKER = os.environ["BENCH_BROKER"]
QUEUE = os.environ["BENCH_QUEUE"]
EFFECTS = os.environ.get("BENCH_EFFECTS")  # host:port of the sandbox
TOKEN = os.environ.get("BENCH_TOKEN", "")
EVENT = "e" * int(os.environ.get("BENCH_EVENT", "512"))

app = Celery("celery_app", broker=BROKER)
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=os.environ["BENCH_ACKS_LATE"] == "1",
    task_reject_on_worker_lost=os.environ["BENCH_ACKS_LATE"] == "1",
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "32")),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)

producer = None
service = None


def announce(job):
    """One event, persistent; returns when the broker has confirmed it."""
    global producer
    if producer is None:
        producer = Producer(Connection(BROKER, transport_options={"confirm_publish": True}).channel())
    producer.publish(
        EVENT.encode(),
        exchange="longshore.events.v1",
        routing_key="v1.bench.submission.completed.celery",
        content_type="application/json",
        content_encoding="utf-8",
        message_id=job,
        delivery_mode=2,
    )


def take_effect(job, product):
    """The call that must not happen twice. What goes wrong with it is the task's failure."""
    global service
    if service is None:
        service = http.client.HTTPConnection(EFFECTS, timeout=10)
    body = json.dumps({"name": job, "type": "derived"})
    headers = {
        "Authorization": "Bearer " + TOKEN,
        "Content-Type": "application/json",
        "MS-CorrelationId": job,
    }
    path = f"/v2.0/my/hardware/products/{product}/submissions"
    service.request("POST", path, body=body, headers=headers)
    answer = service.getresponse()
    answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"HTTP {answer.status}")


@app.task(name="bench.job")
def job(name, product=None):
    if product is not None:
        take_effect(name, product)
    announce(name)
