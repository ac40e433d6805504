import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Transactions, a group of the new protocol and the admin client of Apache Kafka's Java client, in one process:
 * Tour BOOTSTRAP {"topic", "group", "transactional_id"}. Prints one JSON object of what it was told; tests/clients/test_java.py knows
 * what is right.
 */
public final class Tour {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int WAIT_MS = 150_000;

    private final Map<String, Object> settings = new HashMap<>();
    private final String topic;
    private final String group;
    private final String transactionalId;
    private final ObjectNode told = JSON.createObjectNode();
    private final TopicPartition first;

    private Tour(String bootstrap, JsonNode wanted) {
        settings.put("bootstrap.servers", bootstrap);
        topic = wanted.get("topic").asText();
        group = wanted.get("group").asText();
        transactionalId = wanted.get("transactional_id").asText();
        first = new TopicPartition(topic, 0);
    }

    public static void main(String[] arguments) throws Exception {
        Tour tour = new Tour(arguments[0], JSON.readTree(arguments[1]));
        Map<String, Object> patient = new HashMap<>(tour.settings);
        patient.put("request.timeout.ms", WAIT_MS);
        patient.put("default.api.timeout.ms", WAIT_MS);
        try (Admin admin = Admin.create(patient)) {
            tour.topics(admin);
            try (KafkaConsumer<String, String> consumer = tour.consumer()) {
                tour.transactions(admin, consumer);
                tour.describeGroup(admin);
            }
            tour.describe(admin);
            tour.offsetsOfGroup(admin);
            tour.records(admin);
            tour.end(admin);
        }
        System.out.println(tour.told);
    }

    private void topics(Admin admin) throws Exception {
        told.put("nodes", admin.describeCluster().nodes().get().size());
        told.put("cluster", !admin.describeCluster().clusterId().get().isEmpty());
        told.put("features", admin.describeFeatures().featureMetadata().get().finalizedFeatures().containsKey("transaction.version"));
        NewTopic made = new NewTopic(topic, 1, (short) 1).configs(Map.of("retention.ms", "123456789"));
        admin.createTopics(List.of(made), new CreateTopicsOptions().validateOnly(true)).all().get();
        told.put("validated only", !admin.listTopics().names().get().contains(topic));
        admin.createTopics(List.of(made)).all().get();
        told.put("again", reason(() -> admin.createTopics(List.of(made)).all().get()));
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all().get();
        Collection<AlterConfigOp> changes = List.of(
            new AlterConfigOp(new ConfigEntry("segment.ms", "1234567"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND),
            new AlterConfigOp(new ConfigEntry("retention.ms", null), AlterConfigOp.OpType.DELETE));
        admin.incrementalAlterConfigs(Map.of(config(), changes)).all().get();
    }

    private ConfigResource config() {
        return new ConfigResource(ConfigResource.Type.TOPIC, topic);
    }

    /** What was changed before: a broker of Kafka knows it a moment later. */
    private void describe(Admin admin) throws Exception {
        told.put("partitions", admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size());
        var found = admin.describeConfigs(List.of(config())).all().get().get(config());
        for (String name : List.of("segment.ms", "cleanup.policy", "retention.ms")) {
            told.put(name, found.get(name).value() + " " + found.get(name).source());
        }
    }

    private KafkaConsumer<String, String> consumer() {
        Map<String, Object> wanted = new HashMap<>(settings);
        wanted.put("group.id", group);
        wanted.put("group.protocol", "consumer");
        wanted.put("isolation.level", "read_committed");
        wanted.put("auto.offset.reset", "earliest");
        wanted.put("enable.auto.commit", false);
        wanted.put("default.api.timeout.ms", WAIT_MS);
        return new KafkaConsumer<>(wanted, new StringDeserializer(), new StringDeserializer());
    }

    private KafkaProducer<String, String> producer() {
        Map<String, Object> wanted = new HashMap<>(settings);
        wanted.put("transactional.id", transactionalId);
        wanted.put("max.block.ms", WAIT_MS);
        return new KafkaProducer<>(wanted, new StringSerializer(), new StringSerializer());
    }

    /** Two transactions that commit around one that aborts; a third takes the reader's offsets along; a zombie is fenced. */
    private void transactions(Admin admin, KafkaConsumer<String, String> consumer) throws Exception {
        KafkaProducer<String, String> producer = producer();
        producer.initTransactions();
        for (String word : List.of("one", "aborted", "two")) {
            producer.beginTransaction();
            for (int partition = 0; partition < 2; partition++) {
                producer.send(new ProducerRecord<>(topic, partition, "key", word)).get();
            }
            if (word.equals("aborted")) {
                describeOpen(admin);
                producer.abortTransaction();
            } else {
                producer.commitTransaction();
            }
        }
        consumer.subscribe(new SubscriptionPattern(topic + ".*"));
        List<String> words = read(consumer, 4);
        told.put("read committed", String.join(" ", words.stream().sorted().toList()));
        producer.beginTransaction();
        Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
        consumer.assignment().forEach(each -> positions.put(each, new OffsetAndMetadata(consumer.position(each))));
        producer.sendOffsetsToTransaction(positions, consumer.groupMetadata());
        producer.commitTransaction();
        told.put("offsets", consumer.committed(consumer.assignment()).equals(positions));
        admin.fenceProducers(List.of(transactionalId)).all().get();
        told.put("fenced", reason(() -> {
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, 0, "key", "zombie"));
            producer.commitTransaction();
        }));
        producer.close(Duration.ZERO);
    }

    private void describeOpen(Admin admin) throws Exception {
        List<ProducerState> producers = admin.describeProducers(List.of(first)).partitionResult(first).get().activeProducers();
        told.put("open since", producers.get(0).currentTransactionStartOffset().getAsLong());
        TransactionDescription open = admin.describeTransactions(List.of(transactionalId)).description(transactionalId).get();
        told.put("transaction", open.state() + " " + open.topicPartitions().size());
        told.put("listed", admin.listTransactions().all().get().stream().anyMatch(each -> each.transactionalId().equals(transactionalId)));
        told.put("last stable", offset(admin, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED));
        told.put("high watermark", offset(admin, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED));
    }

    private long offset(Admin admin, OffsetSpec which, IsolationLevel isolation) throws Exception {
        return admin.listOffsets(Map.of(first, which), new ListOffsetsOptions(isolation)).partitionResult(first).get().offset();
    }

    private static List<String> read(KafkaConsumer<String, String> consumer, int count) {
        List<String> found = new java.util.ArrayList<>();
        long giveUp = System.nanoTime() + Duration.ofMillis(WAIT_MS).toNanos();
        while (found.size() < count && System.nanoTime() < giveUp) {
            for (ConsumerRecord<String, String> each : consumer.poll(Duration.ofMillis(100))) {
                found.add(each.value());
            }
        }
        return found;
    }

    private void describeGroup(Admin admin) throws Exception {
        ConsumerGroupDescription found = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
        told.put("group", found.type() + " " + found.groupState() + " " + found.partitionAssignor());
        told.put("members", found.members().size());
        told.put("assigned", found.members().iterator().next().assignment().topicPartitions().size());
        told.put("in list", admin.listGroups().all().get().stream().anyMatch(each -> each.groupId().equals(group)));
    }

    private void offsetsOfGroup(Admin admin) throws Exception {
        admin.alterConsumerGroupOffsets(group, Map.of(first, new OffsetAndMetadata(1, "moved"))).all().get();
        var asked = Map.of(group, new ListConsumerGroupOffsetsSpec());
        OffsetAndMetadata moved = admin.listConsumerGroupOffsets(asked).partitionsToOffsetAndMetadata(group).get().get(first);
        told.put("moved", moved.offset() + " " + moved.metadata());
        admin.deleteConsumerGroupOffsets(group, java.util.Set.of(first)).all().get();
        told.put("left", admin.listConsumerGroupOffsets(asked).partitionsToOffsetAndMetadata(group).get().size());
        admin.deleteConsumerGroups(List.of(group)).all().get();
        told.put("gone", reason(() -> admin.describeConsumerGroups(List.of(group)).all().get()));
    }

    private void records(Admin admin) throws Exception {
        told.put("earliest", offset(admin, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED));
        var deleted = admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(2))).lowWatermarks().get(first).get();
        told.put("low watermark", deleted.lowWatermark());
        told.put("earliest after", offset(admin, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED));
        var nodes = admin.describeCluster().nodes().get();
        var folders = admin.describeLogDirs(List.of(nodes.iterator().next().id())).allDescriptions().get().values().iterator().next();
        TreeSet<Integer> held = new TreeSet<>();
        folders.values().forEach(each -> each.replicaInfos().keySet().forEach(part -> {
            if (part.topic().equals(topic)) {
                held.add(part.partition());
            }
        }));
        told.put("on disk", held.toString());
    }

    private void end(Admin admin) throws Exception {
        admin.deleteTopics(List.of(topic)).all().get();
        told.put("deleted", !admin.listTopics().names().get().contains(topic));
    }

    private interface Work {
        void run() throws Exception;
    }

    /** The name of the error that it ends with. */
    private static String reason(Work work) throws Exception {
        try {
            work.run();
            return "none";
        } catch (ExecutionException failed) {
            return failed.getCause().getClass().getSimpleName();
        } catch (KafkaException failed) {
            return failed.getClass().getSimpleName();
        }
    }
}
