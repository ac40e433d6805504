import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.FeatureUpdate;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.QuorumInfo;
import org.apache.kafka.clients.admin.RaftVoterEndpoint;
import org.apache.kafka.clients.admin.UpdateFeaturesOptions;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.Exit;

/**
 * What administrators ask of a cluster, by Kafka's own admin client and its own tools, all in one process: Administration BOOTSTRAP TOPIC TOOLS.
 *
 * <p>TOOLS is a JSON list of [class of a tool, argument, ...]. Prints one JSON object: the answer of each call, and of each tool its exit code and
 * what it printed; an exception is told by its name. What is right stands in tests/clients/test_administration.py.
 */
public final class Administration {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Map<String, Object> told = new TreeMap<>();
    private final Map<String, Object> settings = new HashMap<>();
    private final String topic;
    private final TopicPartition first;

    private Administration(String bootstrap, String topic) {
        settings.put("bootstrap.servers", bootstrap);
        settings.put("request.timeout.ms", 150_000);
        settings.put("default.api.timeout.ms", 290_000);
        this.topic = topic;
        first = new TopicPartition(topic, 0);
    }

    public static void main(String[] arguments) throws Exception {
        Administration all = new Administration(arguments[0], arguments[1]);
        try (Admin admin = Admin.create(all.settings)) {
            all.topics(admin);
            all.partitions(admin);
            all.directories(admin);
            all.quorum(admin);
            all.features(admin);
            all.rest(admin);
        }
        List<Object> tools = new ArrayList<>();
        JSON.readTree(arguments[2]).forEach(tool -> {
            List<String> words = new ArrayList<>();
            tool.forEach(word -> words.add(word.asText()));
            tools.add(tool(words));
        });
        all.told.put("tools", tools);
        System.out.println(JSON.writeValueAsString(all.told));
    }

    private void tell(String what, Callable<Object> call) {
        Object answer;
        try {
            answer = call.call();
        } catch (ExecutionException failed) {
            answer = failed.getCause().getClass().getSimpleName();
        } catch (Exception failed) {
            answer = failed.getClass().getSimpleName();
        }
        told.put(what, answer);
    }

    private void topics(Admin admin) {
        tell("created where it is said", () -> {
            NewTopic made = new NewTopic(topic, Map.of(0, List.of(1), 1, List.of(1))).configs(Map.of("retention.ms", "1234567"));
            var created = admin.createTopics(List.of(made));
            return created.numPartitions(topic).get() + " " + created.config(topic).get().get("retention.ms").value();
        });
        tell("created nowhere", () -> admin.createTopics(List.of(new NewTopic(topic + "-7", Map.of(0, List.of(7))))).all().get());
        tell("widened where it is said", () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3, List.of(List.of(1))))).all().get());
        tell("widened nowhere", () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4, List.of(List.of(7))))).all().get());
    }

    private void partitions(Admin admin) {
        TopicPartition unknown = new TopicPartition(topic, 7);
        for (ElectionType kind : ElectionType.values()) {
            tell("elected " + kind, () -> {
                Map<Integer, String> found = new TreeMap<>();
                admin.electLeaders(kind, Set.of(first, unknown)).partitions().get().forEach((partition, failed) ->
                    found.put(partition.partition(), failed.map(each -> each.getClass().getSimpleName()).orElse("elected")));
                return found;
            });
        }
        tell("elected all", () -> admin.electLeaders(ElectionType.PREFERRED, null).all().get());
        tell("reassigned to where it is", () -> reassign(admin, first, Optional.of(new NewPartitionReassignment(List.of(1)))));
        tell("reassigned to nowhere", () -> reassign(admin, first, Optional.of(new NewPartitionReassignment(List.of(7)))));
        tell("reassigned, unknown", () -> reassign(admin, unknown, Optional.of(new NewPartitionReassignment(List.of(1)))));
        tell("reassignment cancelled", () -> reassign(admin, first, Optional.empty()));
        tell("reassignments", () -> admin.listPartitionReassignments().reassignments().get().size());
    }

    private static Object reassign(Admin admin, TopicPartition partition, Optional<NewPartitionReassignment> where) throws Exception {
        return admin.alterPartitionReassignments(Map.of(partition, where)).all().get();
    }

    private void directories(Admin admin) {
        tell("directories", () -> {
            Map<String, LogDirDescription> found = admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1);
            String own = found.keySet().stream().filter(each -> !each.startsWith("remote:")).findFirst().orElseThrow();
            LogDirDescription local = found.get(own);
            TopicPartitionReplica replica = new TopicPartitionReplica(topic, 0, 1);
            Map<String, Object> seen = new TreeMap<>();
            seen.put("sizes", local.totalBytes().orElse(-1) > local.usableBytes().orElse(-1) && local.usableBytes().orElse(-1) > 0);
            seen.put("has it", local.replicaInfos().containsKey(first));
            seen.put("moved to where it is", admin.alterReplicaLogDirs(Map.of(replica, own)).all().get() == null);
            told.put("directory", seen);
            return admin.alterReplicaLogDirs(Map.of(replica, "/no/such/directory")).all().get();
        });
    }

    private void quorum(Admin admin) {
        tell("quorum", () -> {
            QuorumInfo found = admin.describeMetadataQuorum().quorumInfo().get();
            Collection<Integer> voters = new TreeSet<>();
            found.voters().forEach(each -> voters.add(each.replicaId()));
            boolean isSound = found.leaderEpoch() > 0 && found.highWatermark() > 0 && found.voters().get(0).logEndOffset() > 0;
            return found.leaderId() + " " + voters + " " + found.observers() + " " + found.nodes().keySet() + " " + isSound;
        });
        RaftVoterEndpoint endpoint = new RaftVoterEndpoint("CONTROLLER", "localhost", 9093);
        tell("voter added", () -> admin.addRaftVoter(7, Uuid.randomUuid(), Set.of(endpoint)).all().get());
        tell("voter removed", () -> admin.removeRaftVoter(7, Uuid.randomUuid()).all().get());
        tell("broker forgotten", () -> admin.unregisterBroker(7).all().get());
    }

    private void features(Admin admin) {
        FeatureUpdate lower = new FeatureUpdate((short) 1, FeatureUpdate.UpgradeType.SAFE_DOWNGRADE);
        FeatureUpdate higher = new FeatureUpdate((short) 2, FeatureUpdate.UpgradeType.UPGRADE);
        tell("feature, at first", () -> level(admin));
        tell("feature, lower as a trial", () ->
            admin.updateFeatures(Map.of("transaction.version", lower), new UpdateFeaturesOptions().validateOnly(true)).all().get());
        tell("feature, lower", () -> admin.updateFeatures(Map.of("transaction.version", lower), new UpdateFeaturesOptions()).all().get());
        tell("feature, lowered", () -> until(admin, "1-1"));
        tell("feature, higher", () -> admin.updateFeatures(Map.of("transaction.version", higher), new UpdateFeaturesOptions()).all().get());
        tell("feature, raised", () -> until(admin, "2-2"));
        tell("feature, unknown", () -> admin.updateFeatures(Map.of("no.such.feature", higher), new UpdateFeaturesOptions()).all().get());
    }

    private static String level(Admin admin) throws Exception {
        var found = admin.describeFeatures().featureMetadata().get().finalizedFeatures().get("transaction.version");
        return found.minVersionLevel() + "-" + found.maxVersionLevel();
    }

    /** Brokers of Kafka learn of a change after it was answered. */
    private static String until(Admin admin, String wanted) throws Exception {
        String found = level(admin);
        for (long giveUp = System.nanoTime() + 150_000_000_000L; !found.equals(wanted) && System.nanoTime() < giveUp; found = level(admin)) {
            Thread.sleep(20);
        }
        return found;
    }

    private void rest(Admin admin) {
        tell("quotas", () -> admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get().size());
        Map<String, Object> transactional = new HashMap<>(settings);
        transactional.put("transactional.id", topic + "-id");
        transactional.put("max.block.ms", 290_000);
        try (var producer = new KafkaProducer<>(transactional, new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.initTransactions();
        }
        for (String pattern : List.of(topic + "-.*", topic + "-", "[")) {
            tell("transactions " + pattern.replace(topic, ""), () ->
                admin.listTransactions(new ListTransactionsOptions().filterOnTransactionalIdPattern(pattern)).all().get().size());
        }
    }

    /** Runs a tool's main method here: it may end the process, which it is kept from. */
    private static List<Object> tool(List<String> words) {
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        PrintStream out = System.out;
        PrintStream err = System.err;
        int[] code = {0};
        Exit.Procedure procedure = (status, message) -> {
            code[0] = status;
            throw new Ended();
        };
        Exit.setExitProcedure(procedure);
        Exit.setHaltProcedure(procedure);
        try (PrintStream into = new PrintStream(said, true, StandardCharsets.UTF_8)) {
            System.setOut(into);
            System.setErr(into);
            String[] arguments = words.subList(1, words.size()).toArray(new String[0]);
            Class.forName(words.get(0)).getMethod("main", String[].class).invoke(null, (Object) arguments);
        } catch (ReflectiveOperationException failed) {
            if (!(failed.getCause() instanceof Ended)) {
                code[0] = -1;
                said.writeBytes(String.valueOf(failed.getCause()).getBytes(StandardCharsets.UTF_8));
            }
        } finally {
            System.setOut(out);
            System.setErr(err);
            Exit.resetExitProcedure();
            Exit.resetHaltProcedure();
        }
        return List.of(code[0], said.toString(StandardCharsets.UTF_8));
    }

    /** Instead of the end of the process. */
    private static final class Ended extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }
}
