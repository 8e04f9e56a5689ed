// Java's own HTTP client against the gateway, as Spring AI and LangChain4j use it: with the h2c upgrade that it offers
// on every plain HTTP call. TORII_ROOT is the gateway's address without /v1. Prints a line of JSON for each finding.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.zip.GZIPOutputStream;

public class Client {
    static final String ROOT = System.getenv("TORII_ROOT");
    static final Duration PATIENCE = Duration.ofSeconds(60);
    static final HttpClient CLIENT = HttpClient.newBuilder().connectTimeout(PATIENCE).build();

    static final String TEXTS = "{\"model\":\"jina-embeddings-v3\",\"input\":[\"The tide rises.\",\"Bread too.\"]}";
    static final String RANKED = "{\"model\":\"jina-reranker-m0\",\"query\":\"tides\",\"documents\":[\"bread\",\"tides\"]}";
    static final String ASKED =
        "{\"model\":\"jina-deepsearch-v1\",\"messages\":[{\"role\":\"user\",\"content\":\"Why do tides happen?\"}]}";

    interface Work {
        void run() throws Exception;
    }

    public static void main(String[] arguments) {
        check("each plain call offers h2c", Client::offers);
        check("models", Client::models);
        check("embeddings", () -> embeds(call("/v1/embeddings", text(TEXTS))));
        check("embeddings, a body in chunks", () -> embeds(call("/v1/embeddings", chunked(TEXTS))));
        check("embeddings, a body in gzip", () -> embeds(call("/v1/embeddings", gzip(TEXTS), "Content-Encoding", "gzip")));
        check("embeddings, 50 calls at once and 50 in turn", Client::many);
        check("embeddings, a slash too many", () -> embeds(call("/v1//embeddings/", text(TEXTS))));
        check("rerank", () -> holds(call("/v1/rerank", text(RANKED)), 200, "\"relevance_score\":"));
        check("chat", () -> holds(call("/v1/chat/completions", text(ASKED)), 200, "because the Moon"));
        check("chat streamed", Client::streamed);
        check("a stream that is left, and the next call", Client::left);
        check("an error has its envelope", Client::refused);
        check("a WebSocket is answered, and not opened", Client::webSocket);
    }

    static void check(String what, Work work) {
        String fault = null;
        try {
            work.run();
        } catch (Throwable thrown) {
            fault = thrown.toString();
        }
        System.out.printf("{\"library\":\"java.net.http\",\"what\":%s,\"fault\":%s}%n", quoted(what), quoted(fault));
    }

    static String quoted(String text) {
        if (text == null) return "null";
        String plain = text.replace("\\", "\\\\").replace("\"", "\\\"");
        return "\"" + plain.chars().mapToObj(c -> c < ' ' ? " " : String.valueOf((char) c)).collect(Collectors.joining()) + "\"";
    }

    // The client's request, recorded by a server that always answers 204.
    static void offers() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            URI uri = URI.create("http://127.0.0.1:" + server.getLocalPort() + "/");
            var sent = CLIENT.sendAsync(HttpRequest.newBuilder(uri).POST(text("{}")).build(), BodyHandlers.ofString());
            try (Socket socket = server.accept()) {
                InputStream in = socket.getInputStream();
                StringBuilder head = new StringBuilder();
                while (head.indexOf("\r\n\r\n") < 0) head.append((char) in.read());
                OutputStream out = socket.getOutputStream();
                out.write("HTTP/1.1 204 No Content\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
                out.flush();
                sent.get(60, TimeUnit.SECONDS);
                for (String line : List.of("Upgrade: h2c", "HTTP2-Settings: ", "Connection: Upgrade, HTTP2-Settings"))
                    if (!head.toString().contains(line)) throw new AssertionError("no " + line + " in " + head);
            }
        }
    }

    static void models() throws Exception {
        var request = HttpRequest.newBuilder(URI.create(ROOT + "/v1/models")).timeout(PATIENCE).build();
        holds(CLIENT.send(request, BodyHandlers.ofString()), 200, "\"id\":\"jina-embeddings-v3\"");
    }

    static void many() throws Exception {
        List<CompletableFuture<HttpResponse<String>>> calls = new ArrayList<>();
        for (int number = 0; number < 50; number++)
            calls.add(CLIENT.sendAsync(request("/v1/embeddings", text(TEXTS)).build(), BodyHandlers.ofString()));
        for (var each : calls) embeds(each.get(60, TimeUnit.SECONDS));
        for (int number = 0; number < 50; number++)
            embeds(call("/v1/embeddings", number % 2 == 0 ? text(TEXTS) : chunked(TEXTS)));
    }

    static void streamed() throws Exception {
        var response = stream();
        List<String> lines = response.body().collect(Collectors.toList());
        List<String> events = lines.stream().filter(line -> line.startsWith("data: ")).collect(Collectors.toList());
        if (response.statusCode() != 200 || events.size() < 10) throw new AssertionError(lines.toString());
        if (!events.get(events.size() - 1).equals("data: [DONE]")) throw new AssertionError("no [DONE]: " + lines);
        if (lines.stream().filter(line -> line.contains("\"finish_reason\":\"stop\"")).count() != 1)
            throw new AssertionError("not one finish_reason: " + lines);
    }

    static void left() throws Exception {
        try (var lines = stream().body()) {
            if (lines.limit(3).count() != 3) throw new AssertionError("no three lines");
        }
        embeds(call("/v1/embeddings", text(TEXTS)));
    }

    static HttpResponse<java.util.stream.Stream<String>> stream() throws Exception {
        String asked = ASKED.replaceFirst("\\{", "{\"stream\":true,");
        return CLIENT.send(request("/v1/chat/completions", text(asked)).build(), BodyHandlers.ofLines());
    }

    static void refused() throws Exception {
        holds(call("/v1/embeddings", text("{\"model\":\"none\"}")), 400, "\"type\":\"invalid_request_error\"");
        holds(call("/v1/embeddings", text("{}"), "Content-Encoding", "br"), 415, "gzip or deflate");
    }

    static void webSocket() throws Exception {
        URI uri = URI.create(ROOT.replaceFirst("http", "ws") + "/v1/models");
        try {
            CLIENT.newWebSocketBuilder().buildAsync(uri, new WebSocket.Listener() {}).get(60, TimeUnit.SECONDS);
        } catch (ExecutionException error) {
            if (!(error.getCause() instanceof WebSocketHandshakeException)) throw error;
            int status = ((WebSocketHandshakeException) error.getCause()).getResponse().statusCode();
            if (status != 200) throw new AssertionError("status " + status);
            return;
        }
        throw new AssertionError("it was opened");
    }

    static HttpRequest.Builder request(String path, BodyPublisher body, String... headers) {
        var builder = HttpRequest.newBuilder(URI.create(ROOT + path)).timeout(PATIENCE).POST(body);
        builder.header("Content-Type", "application/json").header("Authorization", "Bearer any-key-will-do");
        return headers.length == 0 ? builder : builder.headers(headers);
    }

    static HttpResponse<String> call(String path, BodyPublisher body, String... headers) throws Exception {
        return CLIENT.send(request(path, body, headers).build(), BodyHandlers.ofString());
    }

    static BodyPublisher text(String body) {
        return BodyPublishers.ofString(body);
    }

    static BodyPublisher chunked(String body) {
        return BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body.getBytes(StandardCharsets.UTF_8)));
    }

    static BodyPublisher gzip(String body) throws Exception {
        var packed = new ByteArrayOutputStream();
        try (var out = new GZIPOutputStream(packed)) {
            out.write(body.getBytes(StandardCharsets.UTF_8));
        }
        return BodyPublishers.ofByteArray(packed.toByteArray());
    }

    static void embeds(HttpResponse<String> response) {
        holds(response, 200, "\"embedding\":[");
        if (response.body().split("\"embedding\":\\[").length != 3) throw new AssertionError("not two vectors");
    }

    static void holds(HttpResponse<String> response, int status, String part) {
        if (response.version() != HttpClient.Version.HTTP_1_1) throw new AssertionError(response.version().toString());
        if (response.statusCode() == status && response.body().contains(part)) return;
        String body = response.body().substring(0, Math.min(300, response.body().length()));
        throw new AssertionError(response.statusCode() + " " + body);
    }
}
