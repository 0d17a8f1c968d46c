"""MQTT of the embedded AWS, which has none that a laptop can use: a broker that does as IoT Core.

Devices connect over TLS with a certificate of theirs (`certificates`). What they may do says the
certificate's IoT policy, as it is deployed (`policy`). What they publish is kept on disk (`spool`)
before it is acknowledged, and goes to the rules that are deployed (`rules`): their SQL (`sql`) and
their actions, as the rule's role (`aws`). `broker` speaks MQTT 3.1.1 and 5 (`packets`,
`properties`) and hands messages to who has subscribed (`sessions`), within AWS's `limits`.

A broker from PyPI would have been a plugin host for nearly all of this, and acknowledges a message
before a plugin has it. docs/mqtt.md says what is done as AWS documents it, and what is inferred.
"""
