-- A real client against the real server and a small random model: what it says means nothing, but
-- it has to stand where it says, and what is applied has to be undone.
local text = {
  '# Títle 👍',
  '',
  '\tA 👩‍👧 naïve cat 日本語 sat;\tthe cat slept.',
  '🚀🚀 It it was good, "quoted" and \\ escaped.',
  '',
  'Another paragraph, about the cat.',
}

local function check(what, condition, detail)
  if not condition then
    io.stderr:write('FAILED: ' .. what .. ' ' .. vim.inspect(detail) .. '\n')
    vim.cmd('cquit 1')
  end
  io.stdout:write('ok: ' .. what .. '\n')
end

local function wait(what, condition)
  check(what, vim.wait(120000, condition, 20), 'it took too long')
end

local critic = require('critic')
local said = {}
vim.notify = function(message, level)
  said[#said + 1] = { message = message, level = level }
end

vim.fn.writefile(text, 'note.md')
critic.setup({
  cmd = { vim.env.CRITIC, 'lsp', '--model', vim.env.MODEL, '--log', 'server.log' },
  settings = { maxTokens = 200, threads = 1 },
})
vim.cmd('edit note.md')
vim.cmd('set filetype=markdown')
local buffer = vim.api.nvim_get_current_buf()
wait('the server is attached', function()
  return #vim.lsp.buf_get_clients(buffer) == 1
end)
local client = vim.lsp.get_active_clients()[1]
wait('the server is ready', function()
  return client.initialized
end)

-- Findings.
local streamed = 0
local stream = client.handlers['critic/stream']
client.handlers['critic/stream'] = function(...)
  streamed = streamed + 1
  return stream(...)
end
local result
local request = client.request
client.request = function(method, params, handler, bufnr)
  return request(method, params, function(err, value, ...)
    if method == 'workspace/executeCommand' and value and value ~= vim.NIL then
      result = value
    end
    return handler(err, value, ...)
  end, bufnr)
end
vim.cmd('Critique!')
check('it is busy', critic.busy())
wait('the critique is done', function()
  return not critic.busy()
end)
check('text was streamed', streamed > 0, streamed)
check('there are findings', result and #result.findings > 0, { result, said })
local diagnostics = vim.diagnostic.get(buffer)
check('each finding is a diagnostic', #diagnostics == #result.findings, { diagnostics, result })
local function words(d)
  return table.concat(vim.api.nvim_buf_get_text(buffer, d.lnum, d.col, d.end_lnum, d.end_col, {}), '\n')
end
for _, finding in ipairs(result.findings) do
  local found = vim.tbl_filter(function(d)
    return words(d) == finding.quote and d.message == finding.message
  end, diagnostics)
  check('a diagnostic stands under the words that it quotes', #found == 1, { finding, vim.tbl_map(words, diagnostics) })
end

-- Diagnostics move with their text.
local last = diagnostics[#diagnostics]
local before = words(last)
vim.api.nvim_buf_set_lines(buffer, 0, 0, false, { '👍 new', 'lines' })
wait('diagnostics move', function()
  local moved = vim.diagnostic.get(buffer)
  return #moved == #diagnostics and words(moved[#moved]) == before
end)
vim.cmd('undo')

-- A refinement, applied and undone.
vim.cmd('CriticRefine!')
wait('the refinement is done', function()
  return not critic.busy()
end)
local original = vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
if result.changed then
  check('the difference is shown in a tab', #vim.api.nvim_list_tabpages() == 2, vim.api.nvim_list_tabpages())
  local ours = vim.api.nvim_tabpage_list_wins(0)
  check('in two windows', #ours == 2 and vim.wo[ours[1]].diff and vim.wo[ours[2]].diff, ours)
  local expected = vim.split((result.refinement:gsub('\n$', '')), '\n', { plain = true })
  vim.cmd('CriticApply')
  wait('it is applied', function()
    return not critic.busy() and not vim.deep_equal(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), original)
  end)
  check('as it was said', vim.deep_equal(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), expected), expected)
  check('the tab is closed', #vim.api.nvim_list_tabpages() == 1)
  vim.cmd('undo')
  check('undo takes it back', vim.deep_equal(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), original))
else
  check('a refinement that changes nothing is not offered', false, result)
end

-- An edit makes a refinement stale.
vim.cmd('CriticRefine!')
wait('another refinement is done', function()
  return not critic.busy()
end)
vim.api.nvim_buf_set_lines(buffer, 0, 1, false, { 'changed' })
local touched = vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
vim.cmd('CriticApply')
wait('the answer is there', function()
  return not critic.busy()
end)
check('a stale refinement is refused', vim.deep_equal(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), touched))

-- Cancel.
vim.cmd('Critique!')
vim.cmd('CriticCancel')
wait('cancel ends it', function()
  return not critic.busy()
end)

-- Nothing that is wrong was said.
for _, message in ipairs(said) do
  check('no error is shown', message.level ~= vim.log.levels.ERROR, message)
end

-- :checkhealth.
vim.cmd('checkhealth critic')
local health = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
check(':checkhealth finds program and model', not health:find('ERROR') and health:find('the model opens'), health)

client.stop()
wait('the server ends', function()
  return client.is_stopped()
end)
vim.cmd('qall!')
