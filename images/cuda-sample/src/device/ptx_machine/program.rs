//! PTX text read into instructions.

use std::collections::HashMap;

#[derive(Debug, Clone)]
pub(super) enum Operand {
    Register(usize),
    Constant(u64),
    Label(String),
    Parameter(usize),
    BlockIndex,
    BlockSize,
    ThreadIndex,
}

#[derive(Debug)]
pub(super) struct Instruction {
    pub(super) guard: Option<Operand>,
    pub(super) operation: String,
    pub(super) operands: Vec<Operand>,
}

#[derive(Debug)]
pub(super) struct Program {
    pub(super) registers: usize,
    pub(super) code: Vec<Instruction>,
    pub(super) labels: HashMap<String, usize>,
}

impl Program {
    /// Reads an entry: `(parameters) { body }`, one statement or label a line.
    pub(super) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once('{').unwrap();
        let head = head.trim().trim_start_matches('(').trim_end_matches(')');
        let parameters: Vec<&str> = head.split(',').map(|parameter| parameter.split_whitespace().last().unwrap()).collect();
        let mut program = Self { registers: 0, code: Vec::new(), labels: HashMap::new() };
        let mut registers = HashMap::new();
        for line in body.split_once('}').unwrap().0.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(label) = line.strip_suffix(':') {
                program.labels.insert(label.to_owned(), program.code.len());
                continue;
            }
            let line = line.strip_suffix(';').unwrap();
            if let Some(declared) = line.strip_prefix(".reg ") {
                for register in declared.split_once(' ').unwrap().1.split(',') {
                    registers.insert(register.trim().to_owned(), registers.len());
                }
                continue;
            }
            let operand = |text: &str| match text.trim().trim_matches(['[', ']']) {
                "%ctaid.x" => Operand::BlockIndex,
                "%ntid.x" => Operand::BlockSize,
                "%tid.x" => Operand::ThreadIndex,
                text if text.starts_with('%') => Operand::Register(registers[text]),
                text if text.starts_with("0f") => Operand::Constant(u64::from_str_radix(&text[2..], 16).unwrap()),
                text if text.starts_with(|first: char| first.is_ascii_digit()) => Operand::Constant(text.parse().unwrap()),
                text => {
                    parameters.iter().position(|name| *name == text).map_or_else(|| Operand::Label(text.to_owned()), Operand::Parameter)
                }
            };
            let (guard, line) = match line.strip_prefix('@') {
                Some(rest) => {
                    let (guard, rest) = rest.split_once(' ').unwrap();
                    (Some(operand(guard)), rest)
                }
                None => (None, line),
            };
            let (operation, operands) = line.split_once(' ').unwrap_or((line, ""));
            let operands = operands.split(',').filter(|text| !text.is_empty()).map(operand).collect();
            program.code.push(Instruction { guard, operation: operation.to_owned(), operands });
        }
        program.registers = registers.len();
        program
    }
}
