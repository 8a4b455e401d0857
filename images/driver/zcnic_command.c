// SPDX-License-Identifier: GPL-2.0-only
/*
 * The command pair's transmit ring: one request and its response at a time.
 *
 * Three things can happen to a command. It is executed and answered; nobody is there to execute it
 * (QEMU returns the chain with length 0, or the session is not the device's any more); or the time is
 * up, and then its memory stays the device's until it completes late or the device is reset.
 */
#include <linux/virtio.h>

#include "zcnic.h"

/* Only a hung backend takes that long: QEMU itself returns the commands of a dead one. */
#define ZCNIC_COMMAND_TIMEOUT		(5 * HZ)

struct zcnic_command {
	size_t request_length;
	size_t response_length;
	void *request;
	void *response;
};

static void zcnic_command_free(struct zcnic_command *command)
{
	if (!command)
		return;
	kfree(command->request);
	kfree(command->response);
	kfree(command);
}

static struct zcnic_command *zcnic_command_alloc(const void *request,
						 size_t request_length,
						 size_t response_length)
{
	struct zcnic_command *command = kzalloc_obj(*command);

	if (!command)
		return NULL;
	command->request = kmemdup(request, request_length, GFP_KERNEL);
	command->request_length = request_length;
	command->response = kzalloc(response_length, GFP_KERNEL);
	command->response_length = response_length;
	if (!command->request || !command->response) {
		zcnic_command_free(command);
		return NULL;
	}
	return command;
}

void zcnic_command_callback(struct virtqueue *vq)
{
	struct zcnic *zn = vq->vdev->priv;

	complete(&zn->command_done);
}

/* Wait for @command, freeing earlier ones that complete late. Return: used.len or a negative errno. */
static int zcnic_command_wait(struct zcnic *zn, struct zcnic_command *command)
{
	unsigned long deadline = jiffies + ZCNIC_COMMAND_TIMEOUT;
	struct zcnic_command *done;
	unsigned int length;

	for (;;) {
		reinit_completion(&zn->command_done);
		while ((done = virtqueue_get_buf(zn->command_vq, &length))) {
			if (done == command)
				return min_t(size_t, length,
					     command->response_length);
			zcnic_command_free(done);
		}
		if (virtqueue_is_broken(zn->command_vq))
			return -EIO;
		if (time_after_eq(jiffies, deadline))
			return -ETIMEDOUT;
		wait_for_completion_timeout(&zn->command_done,
					    min_t(unsigned long,
						  deadline - jiffies, HZ));
	}
}

static int zcnic_status_to_errno(u16 status)
{
	switch (status) {
	case ZCNIC_OK:
		return 0;
	case ZCNIC_STALE:
		return -ENOTCONN;
	case ZCNIC_INVALID:
		return -EINVAL;
	case ZCNIC_UNSUPPORTED:
		return -EOPNOTSUPP;
	case ZCNIC_NO_SPACE:
		return -ENOSPC;
	case ZCNIC_NOT_FOUND:
		return -ENOENT;
	case ZCNIC_BUSY:
		return -EBUSY;
	case ZCNIC_VERSION:
	default:
		return -EPROTO;
	}
}

/* Send one command and wait. The caller holds command_lock. */
static int zcnic_command_execute(struct zcnic *zn, u16 opcode, void *request,
				 size_t request_length, void *response,
				 size_t response_length)
{
	struct zcnic_request *head = request;
	struct zcnic_response *answer = response;
	struct zcnic_command *command;
	struct scatterlist out, in, *sgs[] = { &out, &in };
	int length, err;
	u16 status;

	lockdep_assert_held(&zn->command_lock);
	if (!zn->present)
		return -ENOTCONN;

	head->magic = cpu_to_le32(ZCNIC_MAGIC);
	head->opcode = cpu_to_le16(opcode);
	head->reserved = 0;
	head->sequence = cpu_to_le32(++zn->command_sequence);
	head->length = cpu_to_le32(request_length);
	head->session =
		cpu_to_le64(opcode == ZCNIC_CMD_HELLO ? 0 : zn->session);

	command = zcnic_command_alloc(request, request_length, response_length);
	if (!command)
		return -ENOMEM;
	sg_init_one(&out, command->request, request_length);
	sg_init_one(&in, command->response, response_length);
	err = virtqueue_add_sgs(zn->command_vq, sgs, 1, 1, command, GFP_KERNEL);
	if (err) {
		zcnic_command_free(command);
		zcnic_request_reset(zn);
		return -ENOTCONN;
	}
	virtqueue_kick(zn->command_vq);

	length = zcnic_command_wait(zn, command);
	if (length < 0) {
		dev_err(&zn->vdev->dev, "command %u: %s\n", opcode,
			length == -ETIMEDOUT ? "no answer in time" :
					       "the ring is broken");
		zcnic_request_reset(zn);
		return -ENOTCONN;
	}
	memset(response, 0, response_length);
	memcpy(response, command->response, length);
	zcnic_command_free(command);

	if (!length)
		return -ENOTCONN;
	status = le16_to_cpu(answer->status);
	if (length < sizeof(*answer) ||
	    answer->magic != cpu_to_le32(ZCNIC_MAGIC) ||
	    answer->opcode != head->opcode ||
	    answer->sequence != head->sequence ||
	    le32_to_cpu(answer->length) != length) {
		dev_err(&zn->vdev->dev,
			"command %u: malformed response of %d bytes\n", opcode,
			length);
		return -ENOTCONN;
	}
	err = zcnic_status_to_errno(status);
	if (err && err != -ENOTCONN)
		dev_dbg(&zn->vdev->dev, "command %u: status %u, detail %u\n",
			opcode, status, le32_to_cpu(answer->detail));
	/* a success must be complete */
	if (!err && length < response_length)
		return -ENOTCONN;
	return err;
}

/**
 * zcnic_command() - have the device execute a command in the current session
 * @zn: the device
 * @opcode: enum zcnic_opcode
 * @request: starts with struct zcnic_request, which is filled in here
 * @request_length: in bytes
 * @response: starts with struct zcnic_response; may be NULL if only the verdict matters
 * @response_length: in bytes
 *
 * Sleeps. Return: 0; -ENOTCONN if no backend executed it in this session, in which case the session is
 * over and a new one will be tried; else what the device has against it.
 */
int zcnic_command(struct zcnic *zn, u16 opcode, void *request,
		  size_t request_length, void *response, size_t response_length)
{
	struct zcnic_response verdict;
	int err = -ENOTCONN;

	mutex_lock(&zn->command_lock);
	if (zn->live) {
		if (!response) {
			response = &verdict;
			response_length = sizeof(verdict);
		}
		err = zcnic_command_execute(zn, opcode, request, request_length,
					    response, response_length);
		if (zcnic_disconnected(err)) {
			zn->live = false;
			zcnic_service_schedule(zn);
		}
	}
	mutex_unlock(&zn->command_lock);
	return err;
}

/**
 * zcnic_queue_command() - RXQ_STOP, TXQ_START or TXQ_STOP
 * @zn: the device
 * @opcode: which
 * @queue: data pair
 *
 * Return: as zcnic_command().
 */
int zcnic_queue_command(struct zcnic *zn, u16 opcode, u16 queue)
{
	struct zcnic_queue_command request = { .queue = cpu_to_le16(queue) };

	return zcnic_command(zn, opcode, &request, sizeof(request), NULL, 0);
}

/**
 * zcnic_hello() - begin a new session
 * @zn: the device; none of its data rings is in use by NAPI or transmit
 *
 * Return: 0 with the session's id, features and limits in @zn, or as zcnic_command().
 */
int zcnic_hello(struct zcnic *zn)
{
	struct zcnic_hello request = {
		.version_min = cpu_to_le16(ZCNIC_ABI_VERSION),
		.version_max = cpu_to_le16(ZCNIC_ABI_VERSION),
		.queue_pairs = cpu_to_le16(zn->device_pairs),
		.features = { cpu_to_le64(ZCNIC_FEATURES) },
	};
	struct zcnic_hello_response response;
	int err;

	mutex_lock(&zn->command_lock);
	err = zcnic_command_execute(zn, ZCNIC_CMD_HELLO, &request,
				    sizeof(request), &response,
				    sizeof(response));
	zn->live = !err;
	if (err)
		goto out;

	zn->sessions++;
	zn->session = le64_to_cpu(response.response.session);
	zn->features = le64_to_cpu(response.features[0]) & ZCNIC_FEATURES;
	zn->max_header_size = le32_to_cpu(response.max_header_size);
	zn->max_page_size = le32_to_cpu(response.max_page_size);
	zn->max_frame = le32_to_cpu(response.max_frame);
	zn->max_rules = min(le32_to_cpu(response.max_rules), ZCNIC_MAX_RULES);
	zn->max_rss_contexts = min(le16_to_cpu(response.max_rss_contexts),
				   ZCNIC_MAX_RSS_CONTEXTS);
	zn->max_rss_table =
		min(le16_to_cpu(response.max_rss_table), ZCNIC_MAX_RSS_TABLE);
	zn->max_chains = le16_to_cpu(response.max_chains);
	dev_dbg(&zn->vdev->dev, "session %llx, features %llx\n", zn->session,
		zn->features);
out:
	mutex_unlock(&zn->command_lock);
	return err;
}

/**
 * zcnic_command_clean() - free the commands that a device left unanswered
 * @zn: the device, which was reset
 */
void zcnic_command_clean(struct zcnic *zn)
{
	struct zcnic_command *command;

	while ((command = virtqueue_detach_unused_buf(zn->command_vq)))
		zcnic_command_free(command);
}
