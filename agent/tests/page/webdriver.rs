//! A browser that is told what to do: as much of WebDriver (<https://www.w3.org/TR/webdriver2/>) as a test needs,
//! over plain HTTP to chromedriver.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// How long the browser may take for one step, and a condition to come true.
const DEADLINE: Duration = Duration::from_secs(60);

/// An element's reference (WebDriver, section 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// chromedriver. Dropping it ends it.
pub struct Driver {
    child: Child,
    port: u16,
    /// What it says, kept open so that it can.
    _output: BufReader<ChildStdout>,
}

impl Driver {
    /// Starts it at a port of its choice; an error says what is missing.
    pub fn start() -> Result<Self, String> {
        let mut command = Command::new("chromedriver");
        command.args(["--port=0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("chromedriver: {error}"))?;
        let mut output = BufReader::new(child.stdout.take().ok_or("chromedriver has no output")?);
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|length| length > 0) {
            let port = line.split_once("successfully on port ").and_then(|(_, port)| port.trim().strip_suffix('.'));
            if let Some(port) = port.and_then(|port| port.parse().ok()) {
                return Ok(Self { child, port, _output: output });
            }
            line.clear();
        }
        _ = child.kill();
        Err("chromedriver does not say at which port it listens".to_owned())
    }

    /// A browser with a profile in the empty directory `profile`, and a window of that size; as a phone's, if so.
    pub fn browser(&self, profile: &Path, (width, height): (u32, u32), is_phone: bool) -> Browser<'_> {
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        arguments.push(format!("--window-size={width},{height}"));
        let mut options = json!({"args": arguments});
        if is_phone {
            let screen = json!({"width": width, "height": height, "pixelRatio": 2, "touch": true, "mobile": true});
            options["mobileEmulation"] = json!({"deviceMetrics": screen});
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}});
        let session = self.call("POST", "/session", Some(wanted));
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {session}")).to_owned();
        Browser { driver: self, id }
    }

    /// The `value` of the answer; a refusal fails the test.
    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|refusal| panic!("{method} {path}: {refusal:#}"))
    }

    /// The `value` of the answer; an error is that of a refusal.
    fn try_call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Value> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json");
        write!(stream, "{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
        // It keeps the connection open whatever it is asked.
        let (mut reader, mut length) = (BufReader::new(stream), 0);
        for line in reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
            if let Some((name, value)) =
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                length = value.trim().parse().unwrap_or_else(|_| panic!("{name}: {value}"));
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["value"].take();
        if value["error"].is_null() { Ok(value) } else { Err(value) }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A browser's window. Dropping it closes it.
pub struct Browser<'a> {
    driver: &'a Driver,
    id: String,
}

impl Browser<'_> {
    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.driver.call(method, &format!("/session/{}{path}", self.id), body)
    }

    /// Has an element do something. The page may draw it anew meanwhile: then the new one.
    fn command(&self, selector: &str, command: &str, body: &Value) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.call("POST", "/element", Some(json!({"using": "css selector", "value": selector})));
            let element = found[ELEMENT].as_str().unwrap_or_else(|| panic!("no {selector}: {found}"));
            let path = format!("/session/{}/element/{element}/{command}", self.id);
            match self.driver.try_call("POST", &path, Some(body.clone())) {
                Ok(_) => return,
                Err(refusal) => assert!(
                    refusal["error"] == "stale element reference" && Instant::now() < deadline,
                    "{command} {selector}: {refusal:#}"
                ),
            }
        }
    }

    /// Goes there.
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", Some(json!({"url": url})));
    }

    /// What the expression is in the page.
    pub fn read(&self, expression: &str) -> Value {
        let script = format!("return {expression}");
        self.call("POST", "/execute/sync", Some(json!({"script": script, "args": []})))
    }

    /// Waits until the expression is this.
    pub fn wait(&self, expression: &str, wanted: &Value) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.read(expression);
            if found == *wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{expression} is {found}, not {wanted}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks where a person would: in the middle of what is there.
    pub fn click(&self, selector: &str) {
        self.command(selector, "click", &json!({}));
    }

    /// Types into an input.
    pub fn write(&self, selector: &str, text: &str) {
        self.command(selector, "value", &json!({"text": text}));
    }

    /// A PNG of what is seen.
    pub fn screenshot(&self, file: &Path) {
        let picture = self.call("GET", "/screenshot", None);
        std::fs::write(file, BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap()).unwrap();
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        // While a test fails a second panic would end the process without a word.
        if !thread::panicking() {
            self.call("DELETE", "", None);
        }
    }
}
