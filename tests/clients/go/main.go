// franz-go, unchanged, as a command: client BOOTSTRAP COMMAND JSON-ARGUMENTS
//
// Commands and JSON lines are the ones of tests/tools/clients.py. Bytes are base64, offsets and timestamps numbers.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type arguments struct {
	Topic        string            `json:"topic"`
	Codec        string            `json:"codec"`
	Idempotent   bool              `json:"idempotent"`
	Group        string            `json:"group"`
	Count        int               `json:"count"`
	FromMs       *int64            `json:"from_ms"`
	Partitions   int32             `json:"partitions"`
	Configs      map[string]string `json:"configs"`
	Id           string            `json:"transactional_id"`
	Transactions int               `json:"transactions"`
}

// A []byte is base64 in encoding/json and a nil one is null, which is just what the lines say.
type record struct {
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Timestamp int64    `json:"timestamp"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []header `json:"headers"`
}

type header struct {
	name  string
	value []byte
}

func (h header) MarshalJSON() ([]byte, error) { return json.Marshal([]any{h.name, h.value}) }

func (h *header) UnmarshalJSON(raw []byte) error {
	return json.Unmarshal(raw, &[]any{&h.name, &h.value})
}

// How long it waits says how busy the machine is, and is not what is tested.
const patience = 290 * time.Second

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wanted arguments
	must(json.Unmarshal([]byte(os.Args[3]), &wanted))
	common := []kgo.Opt{kgo.SeedBrokers(os.Args[1]), kgo.ClientID("hotlog-franz-go"), kgo.DialTimeout(time.Minute),
		kgo.RequestTimeoutOverhead(patience / 2), kgo.RetryTimeout(patience)}
	switch os.Args[2] {
	case "produce":
		produce(ctx, wanted, common)
	case "consume":
		consume(ctx, wanted, common)
	case "group":
		group(ctx, wanted, common)
	case "create":
		create(ctx, wanted, common)
	case "transact":
		transact(ctx, wanted, common)
	default:
		must(fmt.Errorf("unknown command %q", os.Args[2]))
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(options ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(options...)
	must(err)
	return client
}

// transact leaves the group alone: franz-go takes offsets along only for a consumer of its own.
func transact(ctx context.Context, wanted arguments, common []kgo.Opt) {
	client := open(append(common, kgo.TransactionalID(wanted.Id), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	defer client.Close()
	for number := range wanted.Transactions {
		must(client.BeginTransaction())
		made := &kgo.Record{Topic: wanted.Topic, Value: fmt.Append(nil, number)}
		must(client.ProduceSync(ctx, made).FirstErr())
		must(client.EndTransaction(ctx, kgo.TransactionEndTry(number%2 == 0)))
	}
}

func produce(ctx context.Context, wanted arguments, common []kgo.Opt) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	options := append(common, kgo.DefaultProduceTopic(wanted.Topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[wanted.Codec]))
	if !wanted.Idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	client := open(options...)
	defer client.Close()
	var records []*kgo.Record
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var line record
		must(json.Unmarshal(lines.Bytes(), &line))
		made := &kgo.Record{Partition: line.Partition, Key: line.Key, Value: line.Value,
			Timestamp: time.UnixMilli(line.Timestamp)}
		for _, each := range line.Headers {
			made.Headers = append(made.Headers, kgo.RecordHeader{Key: each.name, Value: each.value})
		}
		records = append(records, made)
	}
	results := client.ProduceSync(ctx, records...)
	must(results.FirstErr())
	for _, each := range records {
		say(map[string]int64{"partition": int64(each.Partition), "offset": each.Offset})
	}
}

func say(value any) {
	line, err := json.Marshal(value)
	must(err)
	fmt.Println(string(line))
}

func show(found *kgo.Record) {
	line := record{Partition: found.Partition, Offset: found.Offset, Timestamp: found.Timestamp.UnixMilli(),
		Key: found.Key, Value: found.Value, Headers: []header{}}
	for _, each := range found.Headers {
		line.Headers = append(line.Headers, header{each.Key, each.Value})
	}
	say(line)
}

// read prints exactly `count` records and returns the ones it printed.
func read(ctx context.Context, client *kgo.Client, count int) []*kgo.Record {
	var shown []*kgo.Record
	for len(shown) < count {
		fetches := client.PollRecords(ctx, count-len(shown))
		must(fetches.Err())
		fetches.EachRecord(func(found *kgo.Record) {
			show(found)
			shown = append(shown, found)
		})
	}
	return shown
}

func consume(ctx context.Context, wanted arguments, common []kgo.Opt) {
	offset := kgo.NewOffset().AtStart()
	if wanted.FromMs != nil {
		offset = kgo.NewOffset().AfterMilli(*wanted.FromMs)
	}
	client := open(append(common, kgo.ConsumeTopics(wanted.Topic), kgo.ConsumeResetOffset(offset))...)
	defer client.Close()
	read(ctx, client, wanted.Count)
}

func group(ctx context.Context, wanted arguments, common []kgo.Opt) {
	client := open(append(common, kgo.ConsumeTopics(wanted.Topic), kgo.ConsumerGroup(wanted.Group),
		kgo.DisableAutoCommit(), kgo.SessionTimeout(time.Minute), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	defer client.Close()
	must(client.CommitRecords(ctx, read(ctx, client, wanted.Count)...))
	must(client.LeaveGroupContext(ctx))
}

func create(ctx context.Context, wanted arguments, common []kgo.Opt) {
	client := open(common...)
	defer client.Close()
	configs := map[string]*string{}
	for name, value := range wanted.Configs {
		configs[name] = kadm.StringPtr(value)
	}
	made, err := kadm.NewClient(client).CreateTopic(ctx, wanted.Partitions, 1, configs, wanted.Topic)
	must(err)
	must(made.Err)
	say(map[string]bool{"created": true})
}
