// Validate state machines: `node validate_machines.js FILE`, for scan/machines.py.
// FILE has definitions, as text, by name. Prints a JSON list of [name, code, message].
const { readFileSync } = require("fs");
const validate = require("asl-validator");

const definitions = JSON.parse(readFileSync(process.argv[2], "utf8"));
const wrong = Object.entries(definitions).flatMap(([name, text]) =>
  validate(JSON.parse(text)).errors.map((each) => [name, each["Error code"], each.Message]),
);
console.log(JSON.stringify(wrong));
