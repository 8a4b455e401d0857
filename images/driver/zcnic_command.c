// SPDX-License-Identifier: GPL-2.0-only
/*
 * The command pair's transmit ring: one request and its response at a time.
 *
 * A command ends in one of three ways. The device executes and answers it. Or
 * there is no backend to execute it: QEMU returns the chain with length 0, or
 * the session is no longer the device's. Or it times out, and then its memory
 * stays the device's until it completes late or the device is reset.
 */
#include <linux/if_vlan.h>
#include <linux/virtio.h>

#include "zcnic_command.h"

/* Only a hung backend takes that long: QEMU returns commands of a dead one */
#define ZCNIC_COMMAND_TIMEOUT		(5 * HZ)

struct zcnic_pending {
	size_t request_length;
	size_t response_length;
	void *request;
	void *response;
};

static void zcnic_pending_free(struct zcnic_pending *pending)
{
	if (!pending)
		return;
	kfree(pending->request);
	kfree(pending->response);
	kfree(pending);
}

static struct zcnic_pending *zcnic_pending_alloc(const void *request,
						 size_t request_length,
						 size_t response_length)
{
	struct zcnic_pending *pending = kzalloc_obj(*pending);

	if (!pending)
		return NULL;
	pending->request = kmemdup(request, request_length, GFP_KERNEL);
	pending->request_length = request_length;
	pending->response = kzalloc(response_length, GFP_KERNEL);
	pending->response_length = response_length;
	if (!pending->request || !pending->response) {
		zcnic_pending_free(pending);
		return NULL;
	}
	return pending;
}

void zcnic_command_callback(struct virtqueue *vq)
{
	struct zcnic *zn = vq->vdev->priv;

	complete(&zn->command_done);
}

/*
 * Wait for @pending, and free earlier commands that complete late.
 *
 * Return: used.len or a negative errno.
 */
static int zcnic_command_wait(struct zcnic *zn, struct zcnic_pending *pending)
{
	unsigned long deadline = jiffies + ZCNIC_COMMAND_TIMEOUT;
	struct zcnic_pending *done;
	unsigned int length;
	unsigned long wait;

	for (;;) {
		reinit_completion(&zn->command_done);
		while ((done = virtqueue_get_buf(zn->command_vq, &length))) {
			if (done == pending)
				return min_t(size_t, length,
					     pending->response_length);
			zcnic_pending_free(done);
		}
		if (virtqueue_is_broken(zn->command_vq))
			return -EIO;
		if (time_after_eq(jiffies, deadline))
			return -ETIMEDOUT;
		wait = min_t(unsigned long, deadline - jiffies, HZ);
		wait_for_completion_timeout(&zn->command_done, wait);
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

/* Whether @answer, @length bytes of it, is one to @request */
static bool zcnic_response_valid(const struct zcnic_request *request,
				 const struct zcnic_response *answer,
				 size_t length)
{
	return length >= sizeof(*answer) &&
	       answer->magic == cpu_to_le32(ZCNIC_MAGIC) &&
	       answer->opcode == request->opcode &&
	       answer->sequence == request->sequence &&
	       le32_to_cpu(answer->length) == length;
}

/* Send one command and wait. The caller holds command_lock. */
static int zcnic_command_execute(struct zcnic *zn, u16 opcode, void *request,
				 size_t request_length, void *response,
				 size_t response_length)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };
	struct zcnic_response *answer = response;
	struct zcnic_request *header = request;
	struct zcnic_pending *pending;
	int length, err;
	u64 session;

	lockdep_assert_held(&zn->command_lock);
	if (!zn->present)
		return -ENOTCONN;

	session = opcode == ZCNIC_CMD_HELLO ? 0 : zn->session;
	header->magic = cpu_to_le32(ZCNIC_MAGIC);
	header->opcode = cpu_to_le16(opcode);
	header->reserved = 0;
	header->sequence = cpu_to_le32(++zn->command_sequence);
	header->length = cpu_to_le32(request_length);
	header->session = cpu_to_le64(session);

	pending = zcnic_pending_alloc(request, request_length,
				      response_length);
	if (!pending)
		return -ENOMEM;
	sg_init_one(&out, pending->request, request_length);
	sg_init_one(&in, pending->response, response_length);
	err = virtqueue_add_sgs(zn->command_vq, sgs, 1, 1, pending, GFP_KERNEL);
	if (err) {
		zcnic_pending_free(pending);
		zcnic_request_reset(zn);
		return -ENOTCONN;
	}
	virtqueue_kick(zn->command_vq);

	length = zcnic_command_wait(zn, pending);
	if (length < 0) {
		dev_err(&zn->vdev->dev, "command %u: %s\n", opcode,
			length == -ETIMEDOUT ? "no answer in time" :
					       "the ring is broken");
		zcnic_request_reset(zn);
		return -ENOTCONN;
	}
	memset(response, 0, response_length);
	memcpy(response, pending->response, length);
	zcnic_pending_free(pending);

	if (!length)
		return -ENOTCONN;
	if (!zcnic_response_valid(header, answer, length)) {
		dev_err(&zn->vdev->dev,
			"command %u: malformed response of %d bytes\n",
			opcode, length);
		return -ENOTCONN;
	}
	err = zcnic_status_to_errno(le16_to_cpu(answer->status));
	if (err && err != -ENOTCONN)
		dev_dbg(&zn->vdev->dev, "command %u: status %u, detail %u\n",
			opcode, le16_to_cpu(answer->status),
			le32_to_cpu(answer->detail));
	/* a success must be complete */
	if (!err && length < response_length)
		return -ENOTCONN;
	return err;
}

/**
 * zcnic_command() - have the device execute a command in the current session
 * @zn: the device
 * @opcode: enum zcnic_opcode
 * @request: begins with struct zcnic_request, which is filled in here
 * @request_length: in bytes
 * @response: begins with struct zcnic_response; NULL if only the status matters
 * @response_length: in bytes
 *
 * Sleeps.
 *
 * Return: 0; -ENOTCONN if no backend executed it in this session, which is then
 * over and makes the service work try a new one; -ENOMEM; otherwise the status
 * by which the device refused, as an errno.
 */
int zcnic_command(struct zcnic *zn, u16 opcode, void *request,
		  size_t request_length, void *response,
		  size_t response_length)
{
	struct zcnic_response status;
	int err = -ENOTCONN;

	if (!response) {
		response = &status;
		response_length = sizeof(status);
	}
	mutex_lock(&zn->command_lock);
	if (zn->live) {
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
 * @opcode: one of these
 * @queue: data pair
 *
 * Return: as zcnic_command().
 */
int zcnic_queue_command(struct zcnic *zn, u16 opcode, u16 queue)
{
	struct zcnic_queue_command request = { .queue = cpu_to_le16(queue) };

	return zcnic_command(zn, opcode, &request, sizeof(request), NULL, 0);
}

/* The driver divides and subtracts by these. */
static bool zcnic_limits_valid(const struct zcnic_hello_response *response)
{
	return le32_to_cpu(response->max_frame) >= ETH_FRAME_LEN + VLAN_HLEN &&
	       le32_to_cpu(response->max_header_size) >=
	       sizeof(struct zcnic_rx_header) + ZCNIC_MIN_HEADER_ROOM &&
	       le16_to_cpu(response->max_chains);
}

/**
 * zcnic_hello() - begin a new session
 * @zn: the device; neither NAPI nor transmit uses its data rings
 *
 * Return: 0 with the session's id, features and limits in @zn, or as
 * zcnic_command().
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
	if (!err && !zcnic_limits_valid(&response))
		err = -EPROTO;
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
	zn->max_rss_table = min(le16_to_cpu(response.max_rss_table),
				ZCNIC_MAX_RSS_TABLE);
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
	struct zcnic_pending *pending;

	while ((pending = virtqueue_detach_unused_buf(zn->command_vq)))
		zcnic_pending_free(pending);
}
