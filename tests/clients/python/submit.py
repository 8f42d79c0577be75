#!/usr/bin/env python3
"""Hands one job to Longshore over RabbitMQ and waits for its end.

    submit.py --url amqp://build:...@rabbitmq/ JOB.json
    submit.py --url ... --body -        (the message as it is, from stdin: for tests of what is refused)

Prints the job's events, one JSON object a line, the last of them its end. Exit code: 0 completed, 1 any other end, 3 no end in
time. Needs pika only (pip install pika).
"""

import argparse
import hashlib
import json
import re
import sys
import time
import urllib.parse

import pika

ENDS = {"completed", "failed", "cancelled", "timed-out", "dead-lettered", "refused"}


def topic_of(job):
    """The topic that a job without one gets: its id in lower case, other characters turned into '-', 120 at most."""
    return job.get("topic") or re.sub(r"[^a-z0-9_-]", "-", job["id"].lower().replace(".", "-"))[:120]


def with_hash(job):
    """Names a local file with its SHA-256: the worker may see another file under that name."""
    package = job.get("spec", {}).get("package", {})
    source = package.get("source", "")
    if not source.startswith("file://") or "sha256" in package:
        return False
    with open(urllib.parse.unquote(source.removeprefix("file://")), "rb") as file:
        package["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return True


def event_of(method, properties, body):
    """A CloudEvent in binary mode: the envelope lies in headers that begin with `ce-`."""
    envelope = {name[3:]: value for name, value in (properties.headers or {}).items() if name.startswith("ce-")}
    return envelope | {"key": method.routing_key, "data": json.loads(body)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("job", help="a file with the job, or - for stdin")
    arguments.add_argument("--url", required=True, help="amqp(s)://user:password@host/vhost")
    arguments.add_argument("--prefix", default="longshore")
    arguments.add_argument("--timeout", type=float, default=120, help="seconds")
    arguments.add_argument("--anonymous", action="store_true", help="send no user-id")
    arguments.add_argument("--repeat", type=int, default=1, help="publish the same message so often")
    told = arguments.parse_args()

    text = sys.stdin.read() if told.job == "-" else open(told.job, encoding="utf-8").read()
    job = json.loads(text)
    if with_hash(job):
        text = json.dumps(job)
    parameters = pika.URLParameters(told.url)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()

    # Bind before publishing: an event that nobody is bound for is gone.
    queue = channel.queue_declare("", exclusive=True).method.queue
    key = f"v1.{job['account']}.*.*.{topic_of(job)}"
    channel.queue_bind(queue, f"{told.prefix}.events.v1", key)

    # With confirms the broker says when the job is safe; `mandatory` would tell nothing, the exchange catches all.
    channel.confirm_delivery()
    properties = pika.BasicProperties(
        delivery_mode=2,
        content_type="application/json",
        message_id=job.get("id"),
        timestamp=int(time.time()),
        # The broker verifies it against the connection's user; without it Longshore does not know who asks.
        user_id=None if told.anonymous else parameters.credentials.username,
    )
    kind = job.get("kind", "submission") + (".bulk" if job.get("bulk") else "")
    for _ in range(told.repeat):
        channel.basic_publish(f"{told.prefix}.jobs.v1", kind, text.encode(), properties)

    for method, event_properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=told.timeout):
        if method is None:
            print(f"no end within {told.timeout} s", file=sys.stderr)
            return 3
        event = event_of(method, event_properties, body)
        print(json.dumps(event), flush=True)
        name = event["type"].removeprefix("dev.longshore.job.").removesuffix(".v1")
        # A refused event speaks of a message: it is the end when the message was ours.
        if name in ENDS and (name != "refused" or event["subject"] == job.get("id")):
            return 0 if name == "completed" else 1
    return 3


if __name__ == "__main__":
    sys.exit(main())
