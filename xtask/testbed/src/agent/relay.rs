//! The agent for other processes: a socket that speaks its protocol.
//!
//! Each connection has ids of its own. Messages pass unchanged otherwise, with their credits, so
//! that output waits in the guest until the other process takes it.

use std::{
    collections::HashMap,
    io::BufReader,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use zcnic_guest_protocol::agent::{Action, ReadError, Reply, Request, read, write};

use super::{Agent, lock};

/// Serves connections in a thread, as long as this process runs. `kernel` is the guest's release.
pub fn serve(agent: &Agent, kernel: &str, listener: UnixListener) {
    let (agent, kernel) = (agent.clone(), kernel.to_owned());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (agent, kernel) = (agent.clone(), kernel.clone());
            thread::spawn(move || {
                let commands = Arc::default();
                let client = Client { agent, commands };
                // A connection that fails has ended.
                let _ = client.serve(&stream, kernel);
                client.abandon();
            });
        }
    });
}

/// One connection.
struct Client {
    agent: Agent,
    /// The id in the guest of each running command by the client's.
    commands: Arc<Mutex<HashMap<u64, u64>>>,
}

impl Client {
    fn serve(&self, stream: &UnixStream, kernel: String) -> Result<(), ReadError> {
        let (replies, outgoing) = channel();
        let ready = Reply::Ready {
            kernel,
            ready: true,
        };
        let _ = replies.send(ready);
        let writer = stream.try_clone()?;
        let commands = Arc::clone(&self.commands);
        thread::spawn(move || pass_back(writer, &outgoing, &commands));
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let Some(request) = read::<Request>(&mut reader)? else {
                return Ok(());
            };
            self.handle(request, &replies);
        }
    }

    fn handle(&self, request: Request, replies: &Sender<Reply>) {
        let Request { id, action } = request;
        let known = lock(&self.commands).get(&id).copied();
        let result = match (action, known) {
            (Action::Exec(_), Some(_)) => Err(format!("command {id} runs already")),
            (exec @ Action::Exec(_), None) => self
                .agent
                .register(Some(id), replies.clone(), None)
                .and_then(|own| {
                    lock(&self.commands).insert(id, own);
                    self.agent.send(own, exec)
                })
                .map_err(|error| error.to_string()),
            (Action::PowerOff, _) => {
                Err("only the process that started the guest powers it off".to_owned())
            }
            (Action::Credit(bytes), Some(own)) => self
                .agent
                .credit(own, bytes)
                .map_err(|error| error.to_string()),
            (action, Some(own)) => self
                .agent
                .send(own, action)
                .map_err(|error| error.to_string()),
            // It has just ended.
            (_, None) => Ok(()),
        };
        if let Err(error) = result {
            let _ = replies.send(Reply::Error {
                error,
                id: Some(id),
            });
        }
    }

    fn abandon(&self) {
        for (_, own) in lock(&self.commands).drain() {
            self.agent.abandon(own);
        }
    }
}

/// Writes replies until the connection fails or its client has gone.
fn pass_back(
    mut writer: UnixStream,
    replies: &Receiver<Reply>,
    commands: &Mutex<HashMap<u64, u64>>,
) {
    for reply in replies {
        if reply.is_last()
            && let Some(id) = reply.id()
        {
            lock(commands).remove(&id);
        }
        if write(&mut writer, reply).is_err() {
            return;
        }
    }
}
