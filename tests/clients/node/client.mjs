// kafkajs, unchanged, as a command: node client.mjs BOOTSTRAP COMMAND JSON-ARGUMENTS
//
// Commands and JSON lines are the ones of tests/tools/clients.py. Bytes are base64, offsets and timestamps numbers.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(process.env.HOTLOG_NODE_MODULES + "/");
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");

const [bootstrap, command, raw] = process.argv.slice(2);
const wanted = JSON.parse(raw);
// How long it waits says how busy the machine is, and is not what is tested.
const patience = { connectionTimeout: 60_000, authenticationTimeout: 60_000, requestTimeout: 150_000, retry: { retries: 30, maxRetryTime: 5_000 } };
const kafka = new Kafka({ clientId: "hotlog-kafkajs", brokers: [bootstrap], logLevel: logLevel.ERROR, ...patience });

const bytes = (text) => (text === null ? null : Buffer.from(text, "base64"));
const text = (buffer) => (buffer === null || buffer === undefined ? null : Buffer.from(buffer).toString("base64"));
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

async function lines() {
  const found = [];
  for await (const line of createInterface({ input: process.stdin })) found.push(JSON.parse(line));
  return found;
}

function headersOf(pairs) {
  const made = {};
  for (const [name, value] of pairs) made[name] = bytes(value);
  return made;
}

async function produce() {
  const producer = kafka.producer({ idempotent: wanted.idempotent, maxInFlightRequests: 1 });
  await producer.connect();
  const compression = { none: 0, gzip: 1, snappy: 2 }[wanted.codec];
  const next = {};
  const records = await lines();
  const messages = records.map((each) => ({
    partition: each.partition,
    key: bytes(each.key),
    value: bytes(each.value),
    headers: headersOf(each.headers),
    timestamp: String(each.timestamp),
  }));
  const acks = await producer.send({ topic: wanted.topic, acks: -1, compression, messages });
  for (const ack of acks) next[ack.partition] = Number(ack.baseOffset);
  for (const each of records) say({ partition: each.partition, offset: next[each.partition]++ });
  await producer.disconnect();
}

function recordOf({ partition, message }) {
  const headers = [];
  for (const [name, value] of Object.entries(message.headers ?? {})) headers.push([name, text(value)]);
  return {
    partition,
    offset: Number(message.offset),
    timestamp: Number(message.timestamp),
    key: text(message.key),
    value: text(message.value),
    headers,
  };
}

async function read({ group, commit, seek }) {
  const consumer = kafka.consumer({ groupId: group, allowAutoTopicCreation: false, maxWaitTimeInMs: 200, sessionTimeout: 60_000 });
  await consumer.connect();
  await consumer.subscribe({ topic: wanted.topic, fromBeginning: true });
  const positions = {};
  let left = wanted.count;
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
    consumer
      .run({
        autoCommit: false,
        eachMessage: async (item) => {
          if (left === 0) return;
          say(recordOf(item));
          positions[item.partition] = Number(item.message.offset) + 1;
          if (--left === 0) resolve();
        },
      })
      .catch(reject);
    for (const each of seek ?? []) consumer.seek({ topic: wanted.topic, ...each });
  });
  if (commit) {
    const offsets = Object.entries(positions).map(([partition, offset]) => ({
      topic: wanted.topic,
      partition: Number(partition),
      offset: String(offset),
    }));
    await consumer.commitOffsets(offsets);
  }
  await consumer.disconnect();
}

async function consume() {
  let seek = [];
  if (wanted.from_ms !== null) {
    const admin = kafka.admin();
    await admin.connect();
    seek = await admin.fetchTopicOffsetsByTimestamp(wanted.topic, wanted.from_ms);
    await admin.disconnect();
  }
  await read({ group: `reader-${process.pid}`, commit: false, seek });
}

async function create() {
  const admin = kafka.admin();
  await admin.connect();
  const configEntries = Object.entries(wanted.configs).map(([name, value]) => ({ name, value }));
  const topic = { topic: wanted.topic, numPartitions: wanted.partitions, replicationFactor: 1, configEntries };
  const made = await admin.createTopics({ topics: [topic], waitForLeaders: true });
  say({ created: made });
  await admin.disconnect();
}

async function transact() {
  const producer = kafka.producer({ transactionalId: wanted.transactional_id, idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (let number = 0; number < wanted.transactions; number++) {
    const transaction = await producer.transaction();
    await transaction.send({ topic: wanted.topic, acks: -1, messages: [{ partition: 0, value: String(number) }] });
    const topics = [{ topic: wanted.topic, partitions: [{ partition: 0, offset: String(number) }] }];
    await transaction.sendOffsets({ consumerGroupId: wanted.group, topics });
    await (number % 2 === 0 ? transaction.commit() : transaction.abort());
  }
  await producer.disconnect();
}

const commands = { produce, consume, create, transact, group: () => read({ group: wanted.group, commit: true }) };
commands[command]().then(
  () => process.stdout.write("", () => process.exit(0)), // a pipe is written to asynchronously
  (failure) => {
    console.error(failure);
    process.exit(1);
  },
);
