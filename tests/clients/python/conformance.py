#!/usr/bin/env python3
"""Listens to Longshore's events with the CloudEvents SDK and checks each against the schemas, until a job ends.

    conformance.py --url amqp://...@rabbitmq/ --schemas docs/schemas --job nic-4711

Prints `listening`, then each event as the SDK writes it, one JSON object a line. Exit code: 0 when every event of the job was
as described, 1 with words when one was not, 3 no end in time. Needs pika, cloudevents 2 and jsonschema.
"""

import argparse
import json
import pathlib
import sys

import jsonschema
import pika
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_binary_event, to_structured_event

ENDS = {"completed", "failed", "cancelled", "timed-out", "dead-lettered"}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--prefix", default="longshore")
    arguments.add_argument("--schemas", required=True, type=pathlib.Path)
    arguments.add_argument("--job", required=True, help="the job's id")
    arguments.add_argument("--timeout", type=float, default=120)
    told = arguments.parse_args()

    def validator(name):
        schema = json.loads((told.schemas / name).read_text(encoding="utf-8"))
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
        return kind(schema, format_checker=kind.FORMAT_CHECKER)

    of_events, of_jobs = validator("event.json"), validator("job.json")
    for example in of_jobs.schema["examples"]:
        of_jobs.validate(example)
    if of_jobs.is_valid(of_jobs.schema["examples"][0] | {"unknown": 1}):
        print("the schema of jobs lets an unknown member in", file=sys.stderr)
        return 1

    channel = pika.BlockingConnection(pika.URLParameters(told.url)).channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, f"{told.prefix}.events.v1", "v1.#")
    print("listening", flush=True)
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=told.timeout):
        if method is None:
            print(f"no end within {told.timeout:g} s", file=sys.stderr)
            return 3
        headers = properties.headers
        not_text = [name for name, value in headers.items() if not isinstance(value, str)]
        event = from_binary_event(RabbitMQMessage(headers=headers, content_type=properties.content_type, body=body))
        told_so = json.loads(to_structured_event(event).body)
        wrong = [error.message for error in of_events.iter_errors(told_so)]
        if properties.message_id != event.get_id() or properties.type != event.get_type():
            wrong.append("message_id and type of the message are not the event's")
        if not_text or wrong:
            print(f"{event.get_type()}: not text: {not_text}; {'; '.join(wrong)}", file=sys.stderr)
            return 1
        print(json.dumps(told_so), flush=True)
        name = event.get_type().removeprefix("dev.longshore.job.").removesuffix(".v1")
        if event.get_subject() == told.job and name in ENDS:
            return 0
    return 3


if __name__ == "__main__":
    sys.exit(main())
