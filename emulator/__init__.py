"""AWS on this machine: the embedded AWS, with the parts of AWS that it lacks.

This package knows nothing of the stacks that are deployed to it.

    embedded        starts and stops the embedded AWS (ministack) in a process of its own
    launcher        the main program of that process
    gaps            changes to ministack where it differs from AWS
    mappings        event source mappings of streams
    mqtt            IoT Core's message broker and rules
    registry_server Glue Schema Registry
    sigv4           signatures of requests
    event_pattern   event patterns, for filters
    states_language Step Functions' checks of a definition
    instance        the folder of a running embedded AWS
    processes       the processes of a running embedded AWS
"""
