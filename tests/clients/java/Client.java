import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Apache Kafka's own Java client, unchanged, as a command: Client BOOTSTRAP COMMAND JSON-ARGUMENTS.
 *
 * <p>Commands and JSON lines are the ones of tests/tools/clients.py. Bytes are base64, offsets and timestamps numbers.
 */
public final class Client {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Duration WAIT_MAX = Duration.ofSeconds(290);
    /** How long it waits says how busy the machine is, and is not what is tested. */
    private static final Map<String, Object> PATIENCE = Map.of("request.timeout.ms", 150_000, "default.api.timeout.ms", 290_000);

    private final String bootstrap;
    private final JsonNode wanted;

    private Client(String bootstrap, JsonNode wanted) {
        this.bootstrap = bootstrap;
        this.wanted = wanted;
    }

    public static void main(String[] arguments) throws Exception {
        Client client = new Client(arguments[0], JSON.readTree(arguments[2]));
        switch (arguments[1]) {
            case "produce" -> client.produce();
            case "consume" -> client.consume();
            case "group" -> client.group();
            case "create" -> client.create();
            case "transact" -> client.transact();
            default -> throw new IllegalArgumentException("unknown command " + arguments[1]);
        }
    }

    private String topic() {
        return wanted.get("topic").asText();
    }

    private static byte[] bytes(JsonNode node) {
        return node.isNull() ? null : Base64.getDecoder().decode(node.asText());
    }

    private static String text(byte[] raw) {
        return raw == null ? null : Base64.getEncoder().encodeToString(raw);
    }

    private void produce() throws Exception {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("request.timeout.ms", PATIENCE.get("request.timeout.ms"));
        settings.put("delivery.timeout.ms", 290_000);
        settings.put("max.block.ms", 290_000);
        settings.put("acks", "all");
        settings.put("compression.type", wanted.get("codec").asText());
        settings.put("enable.idempotence", wanted.get("idempotent").asBoolean());
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        ByteArraySerializer plain = new ByteArraySerializer();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings, plain, plain)) {
            BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = input.readLine(); line != null; line = input.readLine()) {
                sent.add(producer.send(recordOf(JSON.readTree(line))));
            }
            for (Future<RecordMetadata> each : sent) {
                RecordMetadata found = each.get();
                System.out.println(JSON.createObjectNode().put("partition", found.partition()).put("offset", found.offset()));
            }
        }
    }

    private void transact() {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", wanted.get("transactional_id").asText());
        settings.put("max.block.ms", 290_000);
        ByteArraySerializer plain = new ByteArraySerializer();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings, plain, plain)) {
            producer.initTransactions();
            for (int number = 0; number < wanted.get("transactions").asInt(); number++) {
                producer.beginTransaction();
                producer.send(new ProducerRecord<>(topic(), 0, null, Integer.toString(number).getBytes(StandardCharsets.UTF_8)));
                producer.sendOffsetsToTransaction(
                    Map.of(new TopicPartition(topic(), 0), new OffsetAndMetadata(number)),
                    new ConsumerGroupMetadata(wanted.get("group").asText()));
                if (number % 2 == 0) {
                    producer.commitTransaction();
                } else {
                    producer.abortTransaction();
                }
            }
        }
    }

    private ProducerRecord<byte[], byte[]> recordOf(JsonNode line) {
        ProducerRecord<byte[], byte[]> made = new ProducerRecord<>(
            topic(), line.get("partition").asInt(), line.get("timestamp").asLong(), bytes(line.get("key")), bytes(line.get("value")));
        for (JsonNode pair : line.get("headers")) {
            made.headers().add(pair.get(0).asText(), bytes(pair.get(1)));
        }
        return made;
    }

    private KafkaConsumer<byte[], byte[]> consumer(String group) {
        Map<String, Object> settings = new HashMap<>(PATIENCE);
        settings.put("bootstrap.servers", bootstrap);
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", "earliest");
        settings.put("max.poll.records", 10_000);
        if (group != null) {
            settings.put("group.id", group);
        }
        ByteArrayDeserializer plain = new ByteArrayDeserializer();
        return new KafkaConsumer<>(settings, plain, plain);
    }

    private void consume() throws IOException {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(null)) {
            List<TopicPartition> partitions = new ArrayList<>();
            consumer.partitionsFor(topic()).forEach(each -> partitions.add(new TopicPartition(topic(), each.partition())));
            consumer.assign(partitions);
            JsonNode from = wanted.get("from_ms");
            if (from.isNull()) {
                consumer.seekToBeginning(partitions);
            } else {
                Map<TopicPartition, Long> times = new HashMap<>();
                partitions.forEach(each -> times.put(each, from.asLong()));
                consumer.seekToEnd(partitions);
                consumer.offsetsForTimes(times).forEach((partition, found) -> {
                    if (found != null) {
                        consumer.seek(partition, found.offset());
                    }
                });
            }
            read(consumer);
        }
    }

    private void group() throws IOException {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(wanted.get("group").asText())) {
            consumer.subscribe(List.of(topic()));
            consumer.commitSync(read(consumer));
        }
    }

    /** Prints exactly `count` records; the position after the last of them by partition. */
    private Map<TopicPartition, OffsetAndMetadata> read(KafkaConsumer<byte[], byte[]> consumer) throws IOException {
        Map<TopicPartition, OffsetAndMetadata> after = new HashMap<>();
        int left = wanted.get("count").asInt();
        long giveUp = System.nanoTime() + WAIT_MAX.toNanos();
        while (left > 0) {
            if (System.nanoTime() > giveUp) {
                throw new IOException(left + " records did not come in " + WAIT_MAX);
            }
            for (ConsumerRecord<byte[], byte[]> each : consumer.poll(Duration.ofMillis(500))) {
                if (left == 0) {
                    break;
                }
                show(each);
                after.put(new TopicPartition(each.topic(), each.partition()), new OffsetAndMetadata(each.offset() + 1));
                left--;
            }
        }
        return after;
    }

    private static void show(ConsumerRecord<byte[], byte[]> found) {
        ObjectNode line = JSON.createObjectNode();
        line.put("partition", found.partition()).put("offset", found.offset()).put("timestamp", found.timestamp());
        line.put("key", text(found.key())).put("value", text(found.value()));
        ArrayNode headers = line.putArray("headers");
        found.headers().forEach(each -> headers.addArray().add(each.key()).add(text(each.value())));
        System.out.println(line);
    }

    private void create() throws Exception {
        Map<String, String> configs = new HashMap<>();
        wanted.get("configs").fields().forEachRemaining(each -> configs.put(each.getKey(), each.getValue().asText()));
        Map<String, Object> settings = new HashMap<>(PATIENCE);
        settings.put("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(settings)) {
            NewTopic made = new NewTopic(topic(), wanted.get("partitions").asInt(), (short) 1).configs(configs);
            admin.createTopics(List.of(made)).all().get();
            System.out.println(JSON.createObjectNode().put("created", true));
        }
    }
}
