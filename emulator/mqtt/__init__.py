"""An MQTT broker that behaves like IoT Core; ministack has none that a laptop can use.

Devices connect over TLS with their own certificates (`certificates`). The certificate's deployed
IoT policy decides what a device may do (`policy`). A published message is written to disk (`spool`)
before it is acknowledged. Then the deployed rules process it (`rules`): their SQL (`sql`) and their
actions, which run with the rule's role (`aws`). `broker` speaks MQTT 3.1.1 and 5 (`packets`,
`properties`) and delivers messages to subscribers (`sessions`), within AWS's `limits`.

A broker from PyPI would need plugins for nearly all of this, and acknowledges a message before a
plugin has it. docs/mqtt.md lists the behaviour that AWS documents and the behaviour that is
inferred.
"""
