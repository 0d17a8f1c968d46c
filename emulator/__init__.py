"""AWS on this machine: the embedded AWS, its event source mappings, its MQTT, and its gaps closed.

It knows nothing of what is deployed to it.

    embedded        starts and ends the embedded AWS (ministack), a process of its own
    launcher        what runs in that process
    gaps            what it does otherwise than AWS, closed
    mappings        event source mappings of streams
    mqtt            IoT Core's message broker and rules
    registry_server Glue Schema Registry
    sigv4           signatures of requests
    event_pattern   event patterns, for filters
    states_language what Step Functions refuses
    instance        the folder of a running one; processes: what runs for it
"""
