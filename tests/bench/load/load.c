/* The load generator of the bench: many connections to one broker on loopback, ready-made frames, every answer looked at.
 *
 *   load --port N --connections N --in-flight N --warm-ms N --measure-ms N
 *        [--own N] [--answers N] [--partitions N] [--records N] [--rate N] [--follow POSITION] FRAMES
 *
 * FRAMES is a file of requests, one after the other, as they go over the wire.  Connection i sends `own` of them in turn, from number
 * i * own on; where the file ends it begins again.  Only the correlation id of a frame is changed.  After so many --answers the measurement
 * ends, if its time did not end it.  --partitions and --records say of how many partitions each answer must speak, and how many must come
 * with records.  With --rate so many requests a second are due, evenly, over all connections, and a latency runs from when its request was
 * due.  With --follow the eight bytes at POSITION of a frame are the offset to fetch from, which moves behind what came; a latency runs from
 * the stamp in the first record.
 *
 * It prints `measuring` and `measured`, where the time begins and ends that counts, then one line of JSON.  With a time to warm up, that
 * begins once every frame was answered at least once, too.  Exit code 0: every answer was whole and had the id of its request; errors and
 * wrong answers are counted.  Else 2 (this program was not used well, or the system refused it something) or 3 (the broker closed a
 * connection, or what it sent is no answer).
 *
 * Invariants: nothing is allocated while it counts, but for the buffer of an answer longer than any before; a request that was sent is
 * answered, or the program fails; requests leave one a write, as clients send them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "answers.h"
#include "histogram.h"
#include "plan.h"

enum { BUFFER_BYTES = 16384, EVENTS_MAX = 256, DRAIN_S = 60 };
#define NS 1000000000ull
#define TIMER UINT32_MAX

typedef struct {
    int fd, waits_to_write, is_begun; /* the last: the next frame has its id, though maybe not a byte of it has left */
    Frame *frames;                    /* `own` of them, copies of this connection alone */
    unsigned next;
    size_t sent;                      /* bytes of the next frame that have left */
    int32_t last_sent, last_answered; /* correlation ids */
    uint64_t *since;                  /* when each request in flight began to count, by correlation id modulo `in_flight` */
    uint64_t due;                     /* with a rate: when the next request is to leave */
    uint8_t *buffer;
    size_t have, room;
} Connection;

typedef struct {
    uint64_t answers, with_records, batches, errors, wrong, sent, received, cpu, at;
    int first_error;
} Counts;

static Plan wanted;
static Counts counted;
static Histogram latency; /* of answers that came while it counts */
static int is_counting, is_sending = 1, poll_fd;
static uint64_t in_flight_total;
static unsigned warmed_up; /* connections whose frames were all answered once */

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static uint64_t own_cpu(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * NS + (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000;
}

static void put_word(uint8_t *bytes, uint32_t value)
{
    value = htonl(value);
    memcpy(bytes, &value, 4);
}

static void wait_to_write(Connection *c, uint32_t number, int waits)
{
    struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.u32 = number};
    if (c->waits_to_write != waits && epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &event))
        fail(OURS, "epoll_ctl: %s", strerror(errno));
    c->waits_to_write = waits;
}

/* Begin the next request if there is one to begin: 0 where all that may be in flight is, or nothing is due. */
static int begin(Connection *c)
{
    if (!is_sending || (uint32_t)(c->last_sent - c->last_answered) >= wanted.in_flight)
        return 0;
    uint64_t since = now();
    if (wanted.rate) {
        if (c->due > since)
            return 0;
        since = c->due;
        c->due += wanted.connections * NS / wanted.rate;
    }
    c->last_sent++;
    in_flight_total++;
    c->since[(uint32_t)c->last_sent % wanted.in_flight] = since;
    put_word(c->frames[c->next].bytes + CORRELATION_AT, (uint32_t)c->last_sent);
    return 1;
}

/* Send until nothing more may be sent, or the socket takes no more. */
static void feed(Connection *c, uint32_t number)
{
    while (c->is_begun || (c->is_begun = begin(c))) {
        Frame *frame = &c->frames[c->next];
        ssize_t gone = write(c->fd, frame->bytes + c->sent, frame->size - c->sent);
        if (gone < 0 && errno != EAGAIN)
            fail(BROKERS, "connection %u: write: %s", number, strerror(errno));
        if (gone > 0) {
            counted.sent += (uint64_t)gone;
            c->sent += (size_t)gone;
        }
        if (c->sent < frame->size) {
            wait_to_write(c, number, 1);
            return;
        }
        c->sent = 0;
        c->is_begun = 0;
        c->next = (c->next + 1) % wanted.own;
    }
    wait_to_write(c, number, 0);
}

static void count(const Answer *answer, uint64_t nanoseconds)
{
    counted.answers++;
    counted.with_records += (uint64_t)answer->with_records;
    counted.batches += (uint64_t)answer->batches;
    if (answer->error) {
        if (!counted.errors++)
            counted.first_error = answer->error;
    } else if ((wanted.partitions >= 0 && answer->partitions != wanted.partitions) ||
               (wanted.records >= 0 && answer->with_records != wanted.records))
        counted.wrong++;
    if (is_counting && (!wanted.follow || answer->with_records))
        histogram_add(&latency, nanoseconds);
}

static void take_answer(Connection *c, uint32_t number, const uint8_t *bytes, size_t size)
{
    Answer answer;
    if (!answer_read(wanted.api, bytes, size, &answer))
        fail(BROKERS, "connection %u: %zu bytes that are no answer of api %d", number, size, wanted.api);
    if (c->last_answered == c->last_sent || answer.correlation != c->last_answered + 1)
        fail(BROKERS, "connection %u: correlation id %d, where %d was the next", number, answer.correlation, c->last_answered + 1);
    if (++c->last_answered == (int32_t)wanted.own)
        warmed_up++;
    in_flight_total--;
    uint64_t since = c->since[(uint32_t)answer.correlation % wanted.in_flight];
    if (wanted.follow && answer.next_offset >= 0) {
        uint8_t *place = c->frames[0].bytes + wanted.follow;
        put_word(place, (uint32_t)((uint64_t)answer.next_offset >> 32));
        put_word(place + 4, (uint32_t)answer.next_offset);
        since = (uint64_t)answer.stamp;
    }
    uint64_t then = now();
    count(&answer, then > since ? then - since : 0);
}

/* Take all whole answers from the buffer; what is left of another moves to its front, with room for all of it. */
static void take_answers(Connection *c, uint32_t number)
{
    size_t at = 0, size = 0;
    while (c->have - at >= 4) {
        size = word_at(c->buffer + at) + (size_t)4;
        if (size > INT32_MAX)
            fail(BROKERS, "connection %u: an answer of %zu bytes", number, size);
        if (c->have - at < size)
            break;
        take_answer(c, number, c->buffer + at + 4, size - 4);
        at += size;
        size = 0;
    }
    if (at)
        memmove(c->buffer, c->buffer + at, c->have - at);
    c->have -= at;
    if (size > c->room) {
        c->room = 2 * size;
        if (!(c->buffer = realloc(c->buffer, c->room)))
            fail(OURS, "no memory");
    }
}

static void receive(Connection *c, uint32_t number)
{
    for (;;) {
        size_t room = c->room - c->have;
        ssize_t come = read(c->fd, c->buffer + c->have, room);
        if (come == 0)
            fail(BROKERS, "connection %u: closed by the broker", number);
        if (come < 0 && errno == EAGAIN)
            return;
        if (come < 0)
            fail(BROKERS, "connection %u: read: %s", number, strerror(errno));
        counted.received += (uint64_t)come;
        c->have += (size_t)come;
        take_answers(c, number);
        if ((size_t)come < room)
            return;
    }
}

static void connect_to(Connection *c, uint32_t number)
{
    struct sockaddr_in broker = {.sin_family = AF_INET, .sin_port = htons((uint16_t)wanted.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0)
        fail(OURS, "socket: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&broker, sizeof broker))
        fail(BROKERS, "connect to port %u: %s", wanted.port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->frames = room_for(wanted.own, sizeof(Frame));
    for (unsigned i = 0; i < wanted.own; i++) {
        const Frame *frame = &wanted.frames[(number * wanted.own + i) % wanted.frame_count];
        c->frames[i] = (Frame){room_for(frame->size, 1), frame->size};
        memcpy(c->frames[i].bytes, frame->bytes, frame->size);
    }
    c->since = room_for(wanted.in_flight, sizeof(uint64_t));
    c->room = BUFFER_BYTES;
    c->buffer = room_for(c->room, 1);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event))
        fail(OURS, "epoll_ctl: %s", strerror(errno));
}

static int pace_of(Connection *connections, uint64_t began)
{
    uint64_t interval = NS / wanted.rate;
    for (unsigned i = 0; i < wanted.connections; i++)
        connections[i].due = began + i * interval;
    struct itimerspec every = {{0, (long)(interval < NS ? interval : NS - 1)}, {0, 1}};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = TIMER};
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (timer < 0 || timerfd_settime(timer, 0, &every, NULL) || epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer, &event))
        fail(OURS, "timer: %s", strerror(errno));
    return timer;
}

static void mark(const char *word)
{
    puts(word);
    fflush(stdout);
}

/* One round of whatever is ready. */
static void serve(Connection *connections, int timer)
{
    struct epoll_event events[EVENTS_MAX];
    int ready = epoll_wait(poll_fd, events, EVENTS_MAX, 10);
    for (int i = 0; i < ready; i++) {
        uint32_t number = events[i].data.u32;
        if (number == TIMER) {
            uint64_t ticks;
            if (read(timer, &ticks, sizeof ticks) == sizeof ticks)
                for (unsigned k = 0; k < wanted.connections; k++)
                    feed(&connections[k], k);
            continue;
        }
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            receive(&connections[number], number);
        feed(&connections[number], number);
    }
}

static Counts counts_at(uint64_t time)
{
    Counts counts = counted;
    counts.cpu = own_cpu();
    counts.at = time;
    return counts;
}

/* The time to warm up is over, and every frame was answered once: what a broker does the first time may take longer than that. */
static int is_warm(uint64_t time, uint64_t counts_from)
{
    if (time < counts_from)
        return 0;
    if (time > counts_from + DRAIN_S * NS)
        fail(BROKERS, "%u of %u connections had all their answers once in %d s", warmed_up, wanted.connections, DRAIN_S);
    return !wanted.warm_ms || warmed_up == wanted.connections;
}

static void run(Connection *connections)
{
    uint64_t time = now(), counts_from = time + wanted.warm_ms * (NS / 1000);
    Counts before = {0}, after = {0};
    int timer = wanted.rate ? pace_of(connections, time) : -1;
    for (unsigned i = 0; i < wanted.connections; i++)
        feed(&connections[i], i);
    while (is_sending || in_flight_total) {
        if (is_sending && !is_counting && is_warm(time, counts_from)) {
            before = counts_at(time);
            is_counting = 1;
            mark("measuring");
        }
        serve(connections, timer);
        time = now();
        if (is_counting && (time >= before.at + wanted.measure_ms * (NS / 1000) || (wanted.answers && counted.answers - before.answers >= wanted.answers))) {
            is_counting = is_sending = 0;
            mark("measured");
            after = counts_at(time);
        }
        if (!is_sending && time > after.at + DRAIN_S * NS)
            fail(BROKERS, "%llu requests were not answered in %d s", (unsigned long long)in_flight_total, DRAIN_S);
    }
    double seconds = (double)(after.at - before.at) / NS, answers = (double)(after.answers - before.answers);
    printf("{\"answers\": %.0f, \"seconds\": %.6f, \"answers_per_s\": %.1f, \"with_records\": %llu, \"batches\": %llu, ", answers, seconds,
           answers / seconds, (unsigned long long)(after.with_records - before.with_records), (unsigned long long)(after.batches - before.batches));
    printf("\"errors\": %llu, \"first_error\": %d, \"wrong\": %llu, ", (unsigned long long)counted.errors, counted.first_error,
           (unsigned long long)counted.wrong);
    printf("\"sent_bytes\": %llu, \"received_bytes\": %llu, ", (unsigned long long)(after.sent - before.sent),
           (unsigned long long)(after.received - before.received));
    printf("\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"p999_ms\": %.4f, \"max_ms\": %.4f, ", (double)histogram_at(&latency, 0.5) / 1e6,
           (double)histogram_at(&latency, 0.99) / 1e6, (double)histogram_at(&latency, 0.999) / 1e6, (double)latency.greatest / 1e6);
    printf("\"client_cpu_s\": %.6f}\n", (double)(after.cpu - before.cpu) / NS);
}

int main(int count, char **words)
{
    wanted = plan_of(count, words);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poll_fd = epoll_create1(0);
    Connection *connections = room_for(wanted.connections, sizeof(Connection));
    for (uint32_t i = 0; i < wanted.connections; i++)
        connect_to(&connections[i], i);
    run(connections);
    return 0;
}
