"""Event source mappings of Kinesis and DynamoDB streams, run as AWS runs them.

The layers, from the inside out; each knows only the ones above it in this list:

    model         values: a mapping, its records and batches, a function's answer
    policy        pure decisions: filter, batch, retry, bisect, partial response, age, windows
    documents     pure: the document that is sent to a failure destination
    ports         interfaces of the outside: source, sink, destination, checkpoints
    lane, shard   one shard of one mapping: read, sort into lanes, deliver, checkpoint
    engine        all mappings: follow their creation, update, disabling and deletion
    memory        the ports in memory, and virtual time: for tests, benchmarks, simulation
    aws           the ports on an AWS endpoint; `python -m emulator.mappings` runs them
"""
