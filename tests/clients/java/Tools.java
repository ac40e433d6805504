import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Base64;
import org.apache.kafka.common.utils.Exit;

/** Runs Kafka's command line tools one after the other in one JVM: each line of stdin is a main class and its arguments, separated by tabs.
 *  For each a line comes back: its exit code, and what it printed as base64. */
public class Tools {
    private static final class Exited extends RuntimeException {
        private final int code;

        private Exited(int code) {
            super("exit " + code);
            this.code = code;
        }
    }

    public static void main(String[] unused) throws Exception {
        Exit.setExitProcedure((code, message) -> {
            throw new Exited(code);
        });
        PrintStream out = System.out;
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split("\t", -1);
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            PrintStream both = new PrintStream(said, true, StandardCharsets.UTF_8);
            System.setOut(both);
            System.setErr(both);
            int code = run(words[0], Arrays.copyOfRange(words, 1, words.length), both);
            both.flush();
            out.println(code + " " + Base64.getEncoder().encodeToString(said.toByteArray()));
            out.flush();
        }
    }

    private static int run(String mainClass, String[] arguments, PrintStream both) throws Exception {
        try {
            Class.forName(mainClass).getMethod("main", String[].class).invoke(null, (Object) arguments);
            return 0;
        } catch (java.lang.reflect.InvocationTargetException ended) {
            if (ended.getCause() instanceof Exited exited) {
                return exited.code;
            }
            ended.getCause().printStackTrace(both);
            return 1;
        }
    }
}
