/* A device in C: it posts each measurement of its sensor until the pipeline has taken it.
 *
 *     cc -Wall -Wextra -o device examples/device.c -lcurl
 *     echo '21.5 40' | ./device "$API_URL" pump-1 "$DEVICE_TOKEN"
 *
 * Each line of the standard input is a measurement: a temperature in degrees Celsius and, optionally,
 * a relative humidity in percent. A reading gets its time once, when it is measured, and is sent with
 * that time until it is answered: sent twice, it counts once. docs/devices.md lists the answers.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_WAIT_S = 1, LONGEST_WAIT_S = 60, ATTEMPT_S = 30, ANSWER_MAX = 4096 };

struct answer {
    char problem[CURL_ERROR_SIZE]; /* why there is no answer */
    char body[ANSWER_MAX + 1];
    size_t size;
    long retry_after_s;
};

static size_t keep_body(char *data, size_t one, size_t count, void *into) {
    struct answer *answer = into;
    size_t size = one * count, room = ANSWER_MAX - answer->size;
    memcpy(answer->body + answer->size, data, size < room ? size : room);
    answer->size += size < room ? size : room;
    answer->body[answer->size] = '\0';
    return size;
}

static size_t keep_header(char *data, size_t one, size_t count, void *into) {
    struct answer *answer = into;
    static const char name[] = "Retry-After:";
    if (one * count > strlen(name) && strncasecmp(data, name, strlen(name)) == 0)
        answer->retry_after_s = strtol(data + strlen(name), NULL, 10);
    return one * count;
}

/* Return whether the same request may succeed later: no answer, too busy, or a fault of the server. */
static int is_worth_repeating(long status) {
    return status == 0 || status == 408 || status == 425 || status == 429 || status >= 500;
}

/* Post a reading once. Return the HTTP status, or 0 without an answer. */
static long post(const char *url, const char *token, const char *reading, struct answer *answer) {
    long status = 0;
    char authorization[512];
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    snprintf(authorization, sizeof authorization, "Authorization: Bearer %s", token);
    headers = curl_slist_append(headers, authorization);
    memset(answer, 0, sizeof *answer);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, answer->problem);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, reading);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)ATTEMPT_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, keep_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, answer);
    if (curl_easy_perform(curl) == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return status;
}

/* Post a reading until it is taken or refused. Return whether it was taken. */
static int send_reading(const char *url, const char *token, const char *reading) {
    struct answer answer;
    long status, wait_s = FIRST_WAIT_S;
    while (is_worth_repeating(status = post(url, token, reading, &answer))) {
        long pause_s = answer.retry_after_s > wait_s ? answer.retry_after_s : wait_s;
        fprintf(stderr, "%ld %s%s: again in %ld s\n", status, answer.problem, answer.body, pause_s);
        sleep((unsigned)pause_s);
        wait_s = wait_s * 2 < LONGEST_WAIT_S ? wait_s * 2 : LONGEST_WAIT_S;
    }
    printf("%ld %s\n", status, answer.body); /* a 202 may name metrics that it refused */
    return status == 202;
}

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int main(int count, char **arguments) {
    char url[1024], reading[256], line[128];
    double temperature, humidity;
    int all_taken = 1;
    if (count != 4) {
        fprintf(stderr, "usage: %s API_URL DEVICE_ID TOKEN\n", arguments[0]);
        return 2;
    }
    snprintf(url, sizeof url, "%s/devices/%s/readings", arguments[1], arguments[2]);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    while (fgets(line, sizeof line, stdin)) {
        int found = sscanf(line, "%lf %lf", &temperature, &humidity);
        if (found < 1) {
            fprintf(stderr, "not a measurement: %s", line);
            all_taken = 0;
            continue;
        }
        int size = snprintf(reading, sizeof reading, "{\"recorded_at\": %lld, \"temperature\": %.2f",
                            now_ms(), temperature);
        if (found == 2)
            size += snprintf(reading + size, sizeof reading - size, ", \"humidity\": %.2f", humidity);
        snprintf(reading + size, sizeof reading - size, "}");
        all_taken &= send_reading(url, arguments[3], reading);
    }
    curl_global_cleanup();
    return all_taken ? 0 : 1;
}
