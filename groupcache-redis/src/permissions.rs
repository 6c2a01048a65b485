//! The commands that the user of a connection must be allowed to run, tried when the connection is made.
//!
//! The trials change nothing: they name keys that do not exist, and write only what exists.

use groupcache_core::ErrorKind;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, ServerErrorKind, Value};

use crate::error::Failure;
use crate::settings::ConnectionSettings;

/// Fails if the user may not run a command that the backend needs, or if the server does not have it. Costs
/// one round trip.
pub(crate) async fn check(
    mut channel: MultiplexedConnection,
    settings: &ConnectionSettings,
    in_cluster: bool,
) -> Result<(), Failure> {
    let mut pipeline = Pipeline::new();
    let mut commands = Vec::new();
    let mut attempt = |words: &[&str]| {
        for (index, word) in words.iter().enumerate() {
            if index == 0 {
                pipeline.cmd(word);
            } else {
                pipeline.arg(word);
            }
        }
        commands.push(words[0].to_owned());
    };
    let key = settings.trial_key.as_str();
    if in_cluster {
        attempt(&["ASKING"]);
    } else {
        attempt(&["MGET", key]);
    }
    attempt(&["GET", key]);
    attempt(&["SET", key, "", "XX"]);
    attempt(&["PEXPIRE", key, "1"]);
    attempt(&["UNLINK", key]);
    if settings.wait_for_replicas.is_some() {
        attempt(&["WAIT", "0", "1"]);
    }
    channel.set_response_timeout(settings.response_time_limit);
    let replies = channel.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
    for (command, reply) in commands.iter().zip(replies) {
        if let Value::ServerError(_) = &reply
            && let Err(error) = reply.extract_error()
            && is_missing(&error)
        {
            return Err(explain(command, error));
        }
    }
    Ok(())
}

/// Converts the error reply to `command`, and names the command if the user may not run it.
pub(crate) fn explain(command: &str, error: RedisError) -> Failure {
    if !is_missing(&error) {
        return Failure::from(error);
    }
    let message = if is_forbidden(&error) {
        format!(
            "the user in `url` has no permission for {command}, or not for keys under `key_prefix`; the \
             documentation of the crate lists the commands that it needs"
        )
    } else {
        format!("the server has no command {command}, which the cache needs")
    };
    Failure::new(ErrorKind::Refused, message).because(error)
}

fn is_missing(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    is_forbidden(error) || detail.to_ascii_lowercase().contains("unknown command")
}

fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoPerm)
}
