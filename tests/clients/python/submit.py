#!/usr/bin/env python3
"""Hands one job to Longshore over RabbitMQ and waits for its end.

    submit.py --url amqp://build:...@rabbitmq/ JOB.json
    submit.py --url ... -               (the job from stdin)

Prints the job's events, one JSON object a line, the last of them its end. Exit code: 0 completed, 1 any other end, 2 nothing was
handed in because the input or the broker is not as it should be, 3 no end in time. Needs pika only (pip install pika).
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
import urllib.parse

import pika
import pika.exceptions

ENDS = {"completed", "failed", "cancelled", "timed-out", "dead-lettered", "refused"}


class Wrong(Exception):
    """What the user can mend."""


def topic_of(job):
    """The topic that a job without one gets: its id in lower case, other characters and empty words turned into '-'."""
    if job.get("topic"):
        return job["topic"]
    words = [re.sub(r"[^a-z0-9_-]", "-", word) or "-" for word in job["id"].lower().split(".")]
    return re.sub(r"\.$", "-", ".".join(words)[:120])


def read_job(name):
    """The job, with a local file named with its SHA-256: the worker may see another file under that name."""
    try:
        text = sys.stdin.read() if name == "-" else open(name, encoding="utf-8").read()
        job = json.loads(text)
    except OSError as error:
        raise Wrong(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise Wrong(f"{name} is not JSON: {error}") from error
    missing = [member for member in ("id", "kind", "account") if not isinstance(job, dict) or not isinstance(job.get(member), str)]
    if missing:
        raise Wrong(f"{name}: a job has an id, a kind and an account; missing: {', '.join(missing)}")
    package = job.get("spec", {}).get("package", {})
    source = package.get("source", "")
    if source.startswith("file://") and "sha256" not in package:
        path = urllib.parse.unquote(source.removeprefix("file://"))
        try:
            with open(path, "rb") as file:
                package["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Wrong(f"the package {path}: {error.strerror}") from error
        text = json.dumps(job)
    return job, text


def event_of(method, properties, body):
    """A CloudEvent in binary mode: the envelope lies in headers that begin with `ce-`."""
    envelope = {name[3:]: value for name, value in (properties.headers or {}).items() if name.startswith("ce-")}
    return envelope | {"datacontenttype": properties.content_type, "key": method.routing_key, "data": json.loads(body)}


def trace_headers():
    """The pipeline's own trace, where it has one: every event of the job carries it."""
    return {name.lower(): os.environ[name] for name in ("TRACEPARENT", "TRACESTATE") if os.environ.get(name)}


def run(told):
    job, text = read_job(told.job)
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
        message_id=job["id"],
        timestamp=int(time.time()),
        # The broker verifies it against the connection's user; without it Longshore does not know who asks.
        user_id=None if told.anonymous else parameters.credentials.username,
        headers=trace_headers(),
    )
    kind = job["kind"] + (".bulk" if job.get("bulk") else "")
    for _ in range(told.repeat):
        channel.basic_publish(f"{told.prefix}.jobs.v1", kind, text.encode(), properties)

    seen, until = set(), time.monotonic() + told.timeout
    while (left := until - time.monotonic()) > 0:
        method, event_properties, body = next(channel.consume(queue, auto_ack=True, inactivity_timeout=left))
        if method is None:
            break
        event = event_of(method, event_properties, body)
        # Delivery is at least once: the first of a source and id counts. Others may share the topic.
        is_ours = job["id"] in (event["subject"], event["data"].get("job"))
        if not is_ours or (event["source"], event["id"]) in seen:
            continue
        seen.add((event["source"], event["id"]))
        print(json.dumps(event), flush=True)
        name = event["type"].removeprefix("dev.longshore.job.").removesuffix(".v1")
        if name in ENDS:
            if name != "completed":
                reason = event["data"].get("reason") or event["data"]
                print(f"job {job['id']} is {name}: {reason.get('message', 'no reason was given')}", file=sys.stderr)
            return 0 if name == "completed" else 1
    print(f"no end within {told.timeout:g} s; the job goes on: hand it in again to see more", file=sys.stderr)
    return 3


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("job", help="a file with the job, or - for stdin")
    arguments.add_argument("--url", required=True, help="amqp(s)://user:password@host/vhost")
    arguments.add_argument("--prefix", default="longshore")
    arguments.add_argument("--timeout", type=float, default=120, help="seconds")
    arguments.add_argument("--anonymous", action="store_true", help="send no user-id")
    arguments.add_argument("--repeat", type=int, default=1, help="publish the same message so often")
    try:
        return run(arguments.parse_args())
    except Wrong as error:
        print(error, file=sys.stderr)
    except pika.exceptions.AMQPChannelError as error:
        print(f"the broker refused: {error.args[-1]}", file=sys.stderr)
    except pika.exceptions.AMQPError as error:
        # Never the URL: it holds a password.
        print(f"the broker is not reached: {type(error).__name__}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
