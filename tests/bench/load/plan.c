#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "answers.h"
#include "plan.h"

void fail(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(code);
}

void *room_for(size_t count, size_t size)
{
    void *found = calloc(count ? count : 1, size);
    if (!found)
        fail(OURS, "no memory");
    return found;
}

uint32_t word_at(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, 4);
    return ntohl(value);
}

static void read_frames(const char *path, Plan *plan)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail(OURS, "%s: %s", path, strerror(errno));
    size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = room_for(size, 1);
    if (fread(bytes, 1, size, file) != size)
        fail(OURS, "%s: cannot be read", path);
    fclose(file);
    Frame *frames = room_for(size / FRAME_BYTES_MIN + 1, sizeof(Frame));
    for (size_t at = 0; at < size; at += frames[plan->frame_count++].size) {
        size_t length = size - at < FRAME_BYTES_MIN ? size : word_at(bytes + at) + (size_t)4;
        if (length < FRAME_BYTES_MIN || length > size - at)
            fail(OURS, "%s: no whole frame at byte %zu", path, at);
        int api = bytes[at + API_AT] << 8 | bytes[at + API_AT + 1], version = bytes[at + VERSION_AT] << 8 | bytes[at + VERSION_AT + 1];
        if (!answer_is_known(api, version) || (at && api != plan->api))
            fail(OURS, "%s: api %d version %d cannot be checked, or not beside the others", path, api, version);
        plan->api = api;
        if (plan->follow && plan->follow + 8 > length)
            fail(OURS, "%s: no offset at %u of a frame of %zu bytes", path, plan->follow, length);
        frames[plan->frame_count] = (Frame){bytes + at, length};
    }
    if (!plan->frame_count)
        fail(OURS, "%s: empty", path);
    plan->frames = frames;
}

Plan plan_of(int count, char **words)
{
    static const struct option names[] = {
        {"port", 1, 0, 'p'},    {"connections", 1, 0, 'c'}, {"in-flight", 1, 0, 'i'},  {"warm-ms", 1, 0, 'w'},
        {"measure-ms", 1, 0, 'm'}, {"own", 1, 0, 'o'},      {"answers", 1, 0, 'a'},    {"partitions", 1, 0, 'P'},
        {"records", 1, 0, 'R'}, {"rate", 1, 0, 'r'},        {"follow", 1, 0, 'f'},     {0, 0, 0, 0},
    };
    Plan plan = {.own = 1, .partitions = -1, .records = -1};
    for (int name; (name = getopt_long(count, words, "", names, NULL)) != -1;) {
        unsigned value = name == '?' ? 0 : (unsigned)strtoul(optarg, NULL, 10);
        switch (name) {
        case 'p': plan.port = value; break;
        case 'c': plan.connections = value; break;
        case 'i': plan.in_flight = value; break;
        case 'w': plan.warm_ms = value; break;
        case 'm': plan.measure_ms = value; break;
        case 'o': plan.own = value; break;
        case 'a': plan.answers = value; break;
        case 'P': plan.partitions = (int)value; break;
        case 'R': plan.records = (int)value; break;
        case 'r': plan.rate = value; break;
        case 'f': plan.follow = value; break;
        default: exit(OURS);
        }
    }
    if (!plan.port || !plan.connections || !plan.in_flight || !plan.measure_ms || !plan.own || optind != count - 1)
        fail(OURS, "a port, connections, requests in flight, a time to measure and one file of frames are needed");
    if (plan.follow && (plan.in_flight != 1 || plan.own != 1))
        fail(OURS, "who follows has one frame and one request in flight");
    read_frames(words[optind], &plan);
    return plan;
}
