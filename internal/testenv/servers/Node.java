import org.codelibs.opensearch.runner.OpenSearchRunner;
import org.codelibs.opensearch.runner.OpenSearchRunner.Configs;

/** One OpenSearch node in this process: Node FOLDER PORT CLUSTER. It joins nobody and binds loopback only. */
final class Node {
    public static void main(String[] args) throws Exception {
        OpenSearchRunner runner = new OpenSearchRunner();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                runner.close();
            } catch (Exception e) {
                e.printStackTrace();
            }
        }));
        runner.setMaxHttpPort(-1); // take the port that we say, whatever it is
        runner.onBuild((number, settings) -> {
            settings.put("http.port", args[1]);
            settings.put("transport.port", "0");
            settings.put("network.host", "127.0.0.1");
            settings.put("discovery.type", "single-node");
            settings.put("cluster.routing.allocation.disk.threshold_enabled", "false"); // a full disk is not ours
        });
        runner.build(new Configs().basePath(args[0]).clusterName(args[2]).numOfNode(1).useLogger());
        Thread.currentThread().join();
    }
}
