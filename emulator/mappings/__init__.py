"""Event source mappings of Kinesis and DynamoDB streams, run as AWS runs them.

The layers, from the inside out; none knows of the ones after it:

    model         values: a mapping, its records and batches, what a function answers
    policy        pure decisions: filter, batch, retry, bisect, partial response, age, windows
    documents     pure: the document that a failure destination gets
    ports         what the engine needs from outside: source, sink, destination, checkpoints
    lane, shard   one shard of one mapping: read, sort into lanes, deliver, checkpoint
    engine        all mappings: follow what is created, updated, disabled, deleted
    memory        the ports in memory, and virtual time: for tests, benchmarks, simulation
    aws           the ports on an AWS endpoint; `python -m emulator.mappings` runs them
"""
