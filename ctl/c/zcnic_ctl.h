/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A client of zcnic's control socket, for tests in C99 on POSIX (docs/control-protocol.md,
 * docs/faults.md). Header-only, without dependencies:
 *
 *	#include "zcnic_ctl.h"
 *
 *	struct zcnic_ctl ctl;
 *	long long id, hits;
 *
 *	if (zcnic_ctl_open(&ctl, NULL) ||
 *	    zcnic_ctl_fault_add(&ctl, "1", "\"direction\":\"rx\",\"nth\":3,\"action\":\"drop\"", &id))
 *		errx(1, "%s", ctl.error);
 *	... traffic ...
 *	if (zcnic_ctl_fault_wait(&ctl, id, 1, 5000, &hits))
 *		errx(1, "%s", ctl.error);
 *	zcnic_ctl_fault_remove(&ctl, id);
 *	zcnic_ctl_close(&ctl);
 *
 * Functions return 0, or a negative errno value and a message in ctl.error: -EREMOTEIO if the
 * backend refused, -ETIMEDOUT if a wait or an answer timed out. The program must define
 * _POSIX_C_SOURCE as 200809L or _GNU_SOURCE before its first #include if it is compiled with
 * -std=c99.
 */
#ifndef ZCNIC_CTL_H
#define ZCNIC_CTL_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Time for a greeting and for an answer, in milliseconds. */
#define ZCNIC_CTL_GREETING_MS 5000
#define ZCNIC_CTL_ANSWER_MS 10000

/* The longest answer that is kept; a longer one is cut off. */
#define ZCNIC_CTL_LINE 65536

struct zcnic_ctl {
	int fd;
	unsigned long long requests;
	/* The last line from the backend, without its newline. */
	char line[ZCNIC_CTL_LINE];
	/* Bytes of later lines. */
	char received[4096];
	size_t pending;
	/* What went wrong. */
	char error[512];
};

static inline int zcnic_ctl_fail(struct zcnic_ctl *ctl, int result, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ctl->error, sizeof(ctl->error), format, args);
	va_end(args);
	return result;
}

static inline long long zcnic_ctl_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static inline int zcnic_ctl_poll(struct zcnic_ctl *ctl, short events, long long deadline)
{
	for (;;) {
		long long left = deadline - zcnic_ctl_now();
		struct pollfd pfd = { .fd = ctl->fd, .events = events };
		int ready = poll(&pfd, 1, left < 0 ? 0 : left > 1000000 ? 1000000 : (int)left);

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready < 0)
			return zcnic_ctl_fail(ctl, -errno, "poll: %s", strerror(errno));
		if (!ready && left > 0)
			continue;
		if (!ready)
			return zcnic_ctl_fail(ctl, -ETIMEDOUT, "The backend did not answer in time");
		/* The other end of a virtio-serial port is closed: a write would block. */
		if (events == POLLOUT && (pfd.revents & (POLLHUP | POLLERR)))
			return zcnic_ctl_fail(ctl, -EPIPE, "The backend closed the connection");
		return 0;
	}
}

static inline int zcnic_ctl_write(struct zcnic_ctl *ctl, const char *text, long long deadline)
{
	size_t left = strlen(text);

	while (left) {
		int err = zcnic_ctl_poll(ctl, POLLOUT, deadline);
		ssize_t n;

		if (err)
			return err;
		n = write(ctl->fd, text, left);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return zcnic_ctl_fail(ctl, -errno, "write: %s", strerror(errno));
		text += n;
		left -= (size_t)n;
	}
	return 0;
}

/* Reads a line into ctl->line. */
static inline int zcnic_ctl_read(struct zcnic_ctl *ctl, long long deadline)
{
	size_t length = 0;

	for (;;) {
		char *end = memchr(ctl->received, '\n', ctl->pending);
		size_t part = end ? (size_t)(end - ctl->received) : ctl->pending;
		size_t kept = sizeof(ctl->line) - 1 - length;
		ssize_t n;
		int err;

		if (kept > part)
			kept = part;
		memcpy(ctl->line + length, ctl->received, kept);
		length += kept;
		ctl->line[length] = '\0';
		if (end) {
			ctl->pending -= part + 1;
			memmove(ctl->received, end + 1, ctl->pending);
			return 0;
		}
		ctl->pending = 0;
		err = zcnic_ctl_poll(ctl, POLLIN, deadline);
		if (err)
			return err;
		n = read(ctl->fd, ctl->received, sizeof(ctl->received));
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return zcnic_ctl_fail(ctl, -errno, "read: %s", strerror(errno));
		if (!n)
			return zcnic_ctl_fail(ctl, -EPIPE, "The backend closed the connection");
		ctl->pending = (size_t)n;
	}
}

/* The failure in ctl->line, {"error":{"class":…,"desc":…}}. */
static inline int zcnic_ctl_refusal(struct zcnic_ctl *ctl)
{
	char *desc = strstr(ctl->line, "\"desc\":\"");
	char *end;

	desc = desc ? desc + 8 : ctl->line;
	end = strstr(desc, "\"}");
	return zcnic_ctl_fail(ctl, strstr(ctl->line, "\"class\":\"Timeout\"") ? -ETIMEDOUT : -EREMOTEIO,
			      "%.*s", end ? (int)(end - desc) : (int)strlen(desc), desc);
}

/*
 * Sends a command with the members of its arguments as JSON, "\"port\":\"1\"" or NULL, and waits
 * for the answer, which is in ctl->line: {"return":…,"id":…}. Events in between are dropped.
 */
static inline int zcnic_ctl_execute(struct zcnic_ctl *ctl, const char *command,
				    const char *arguments, long long timeout_ms)
{
	long long deadline = zcnic_ctl_now() + timeout_ms;
	char request[8192], id[64];
	int n, err;

	ctl->requests++;
	snprintf(id, sizeof(id), "\"id\":\"%ld-%llu\"", (long)getpid(), ctl->requests);
	n = snprintf(request, sizeof(request), "{\"execute\":\"%s\",\"arguments\":{%s},%s}\n", command,
		     arguments ? arguments : "", id);
	if (n < 0 || (size_t)n >= sizeof(request))
		return zcnic_ctl_fail(ctl, -E2BIG, "The arguments of %s are too long", command);
	err = zcnic_ctl_write(ctl, request, deadline);
	if (err)
		return err;
	do {
		err = zcnic_ctl_read(ctl, deadline);
		if (err)
			return err;
	} while (!strncmp(ctl->line, "{\"event\"", 8) || !strstr(ctl->line, id));
	return strncmp(ctl->line, "{\"error\"", 8) ? 0 : zcnic_ctl_refusal(ctl);
}

/* The first number behind "name": in the last answer. */
static inline int zcnic_ctl_number(struct zcnic_ctl *ctl, const char *name, long long *value)
{
	char key[64];
	char *at, *end;

	snprintf(key, sizeof(key), "\"%s\":", name);
	at = strstr(ctl->line, key);
	if (!at)
		return zcnic_ctl_fail(ctl, -EBADMSG, "The answer has no %s", name);
	at += strlen(key);
	at += *at == '[';
	*value = strtoll(at, &end, 10);
	return end == at ? zcnic_ctl_fail(ctl, -EBADMSG, "%s is not a number", name) : 0;
}

/* Finds the virtio-serial port of this guest that is wired to a backend. */
static inline int zcnic_ctl_find_port(char *path, size_t size)
{
	const char *ports = "/sys/class/virtio-ports";
	struct dirent *entry;
	DIR *dir = opendir(ports);
	int found = 0;

	while (dir && !found && (entry = readdir(dir))) {
		char name[64] = "";
		FILE *file;

		if (snprintf(path, size, "%s/%s/name", ports, entry->d_name) >= (int)size)
			continue;
		file = fopen(path, "r");
		if (!file)
			continue;
		found = fgets(name, sizeof(name), file) && !strcmp(name, "zcnic.control\n") &&
			snprintf(path, size, "/dev/%s", entry->d_name) < (int)size;
		fclose(file);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Ends requests, waits and subscriptions of programs that used the port before. */
static inline int zcnic_ctl_take_over(struct zcnic_ctl *ctl)
{
	long long deadline = zcnic_ctl_now() + ZCNIC_CTL_ANSWER_MS;
	int err;

	do {
		const struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };

		/* A backend that is exchanged meanwhile loses the request: it is sent again. */
		err = zcnic_ctl_write(ctl, "\n", deadline);
		if (!err)
			err = zcnic_ctl_execute(ctl, "subscribe", "\"events\":[]", 1000);
		if (err)
			nanosleep(&pause, NULL);
	} while (err && zcnic_ctl_now() < deadline);
	return err;
}

static inline void zcnic_ctl_close(struct zcnic_ctl *ctl)
{
	if (ctl->fd >= 0)
		close(ctl->fd);
	ctl->fd = -1;
}

static inline int zcnic_ctl_greet(struct zcnic_ctl *ctl, const char *path)
{
	int err;

	/*
	 * A control socket skips an empty line. The socket of a port answers that it is one. An error
	 * means that the backend has answered and closed the connection.
	 */
	if (send(ctl->fd, " \n", 2, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
		return zcnic_ctl_fail(ctl, -errno, "%.200s: %s", path, strerror(errno));
	err = zcnic_ctl_read(ctl, zcnic_ctl_now() + ZCNIC_CTL_GREETING_MS);
	if (err == -ETIMEDOUT)
		return zcnic_ctl_fail(ctl, err, "%.200s is not a control socket of zcnic: no greeting within %d s; "
				      "ports' sockets are for QEMU", path, ZCNIC_CTL_GREETING_MS / 1000);
	if (!err && !strncmp(ctl->line, "{\"error\"", 8))
		return zcnic_ctl_refusal(ctl);
	if (!err && strncmp(ctl->line, "{\"zcnic\":", 9))
		return zcnic_ctl_fail(ctl, -EPROTO, "%.200s is not a control socket of zcnic: it greets with %.60s",
				      path, ctl->line);
	return err;
}

/*
 * Connects to the control socket at path; NULL: that in the environment variable ZCNIC_CONTROL, or
 * the virtio-serial port of this guest.
 */
static inline int zcnic_ctl_open(struct zcnic_ctl *ctl, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char port[512];
	struct stat info;
	int err;

	memset(ctl, 0, sizeof(*ctl));
	ctl->fd = -1;
	if (!path)
		path = getenv("ZCNIC_CONTROL");
	if (!path && zcnic_ctl_find_port(port, sizeof(port)))
		path = port;
	if (!path)
		return zcnic_ctl_fail(ctl, -ENOENT, "The control socket is unknown: set ZCNIC_CONTROL to its path");
	if (!stat(path, &info) && S_ISCHR(info.st_mode)) {
		ctl->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
		if (ctl->fd < 0)
			return zcnic_ctl_fail(ctl, -errno, "%.200s: %s", path, strerror(errno));
		err = zcnic_ctl_take_over(ctl);
	} else {
		if (strlen(path) >= sizeof(address.sun_path))
			return zcnic_ctl_fail(ctl, -ENAMETOOLONG, "%.200s: the path is too long", path);
		strcpy(address.sun_path, path);
		ctl->fd = socket(AF_UNIX, SOCK_STREAM, 0);
		if (ctl->fd < 0 || connect(ctl->fd, (struct sockaddr *)&address, sizeof(address)) ||
		    fcntl(ctl->fd, F_SETFD, FD_CLOEXEC) || fcntl(ctl->fd, F_SETFL, O_NONBLOCK))
			err = zcnic_ctl_fail(ctl, -errno, "%.200s: %s", path, strerror(errno));
		else
			err = zcnic_ctl_greet(ctl, path);
	}
	if (err)
		zcnic_ctl_close(ctl);
	return err;
}

/*
 * Adds a fault rule, the members of a JSON object as in docs/faults.md:
 * "\"direction\":\"rx\",\"nth\":3,\"action\":\"drop\"". Its number is put into *id.
 */
static inline int zcnic_ctl_fault_add(struct zcnic_ctl *ctl, const char *port, const char *rule,
				      long long *id)
{
	char arguments[4096];
	int n = snprintf(arguments, sizeof(arguments), "\"port\":\"%s\",\"rules\":[{%s}]", port, rule);
	int err;

	if (n < 0 || (size_t)n >= sizeof(arguments))
		return zcnic_ctl_fail(ctl, -E2BIG, "The rule is too long");
	err = zcnic_ctl_execute(ctl, "fault-add", arguments, ZCNIC_CTL_ANSWER_MS);
	return err ? err : zcnic_ctl_number(ctl, "ids", id);
}

/* Waits until a rule has hit that often, all queues together; *total_hits may be NULL. */
static inline int zcnic_ctl_fault_wait(struct zcnic_ctl *ctl, long long id, long long hits,
				       long long timeout_ms, long long *total_hits)
{
	char arguments[128];
	int err;

	snprintf(arguments, sizeof(arguments), "\"id\":%lld,\"hits\":%lld,\"timeout\":%lld", id, hits,
		 timeout_ms * 1000000);
	err = zcnic_ctl_execute(ctl, "fault-wait", arguments, timeout_ms + ZCNIC_CTL_ANSWER_MS);
	return err || !total_hits ? err : zcnic_ctl_number(ctl, "hits", total_hits);
}

/* Removes a rule. Frames that it holds back are sent. */
static inline int zcnic_ctl_fault_remove(struct zcnic_ctl *ctl, long long id)
{
	char arguments[64];

	snprintf(arguments, sizeof(arguments), "\"id\":%lld", id);
	return zcnic_ctl_execute(ctl, "fault-remove", arguments, ZCNIC_CTL_ANSWER_MS);
}

#endif /* ZCNIC_CTL_H */
