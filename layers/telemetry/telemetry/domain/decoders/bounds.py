"""Limits of the work that a request's body may cause in a decoder."""

MAX_BODY_BYTES = 1_048_576  # both as sent and unpacked
MAX_SCHEMA_BYTES = 65_536  # of an Avro schema as JSON
MAX_SCHEMA_NODES = 1_000  # types in an Avro schema, with each name replaced by its definition
MAX_SCHEMA_DEPTH = 16
MAX_DECIMAL_DIGITS = 100  # of a metric in Avro
MAX_NODES_A_BYTE = 4  # types that a decoder goes through for each byte of an array's items
MAX_MESSAGE_BYTES = 8_192  # of a Protobuf message that is one reading


def too_many(most: int) -> str:
    return f"has more than {most} readings; a request brings 1 to {most}"
